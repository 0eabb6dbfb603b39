-- A workspace and its owner, unless it is there. ARGV: workspace, name, plan, now, user, audit.
if redis.call('EXISTS', K.workspace(ARGV[1])) == 1 then return end
redis.call('HSET', K.workspace(ARGV[1]), 'name', ARGV[2], 'plan', ARGV[3], 'status', 'active', 'created_at', ARGV[4])
redis.call('HSET', K.members(ARGV[1]), ARGV[5], 'owner')
note_audit(ARGV[1], ARGV[6])
