-- The first owner with a workspace and a key, unless there is one; all ids fall in shard 0.
-- ARGV: user, user name, workspace, workspace name, plan, now, key id, hash, record, audit.
if redis.call('EXISTS', K.owner()) == 1 then return 0 end
local user, ws, now = ARGV[1], ARGV[3], ARGV[6]
redis.call('SET', K.owner(), user)
redis.call('HSET', K.user(user), 'name', ARGV[2], 'created_at', now)
redis.call('ZADD', K.user_workspaces(user), 0, ws)
redis.call('HSET', K.workspace(ws), 'name', ARGV[4], 'plan', ARGV[5], 'status', 'active', 'created_at', now)
redis.call('HSET', K.members(ws), user, 'owner')
keep_key(ws, ARGV[7], ARGV[8], ARGV[9])
note_audit(ws, ARGV[10])
return 1
