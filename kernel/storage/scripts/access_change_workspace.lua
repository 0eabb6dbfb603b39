#!lua flags=allow-oom
-- Changes a workspace that still is as it was read, and tells every replica.
-- ARGV: workspace, name, plan, limits and status as read, the new ones, audit.
local workspace = K.workspace(ARGV[1])
local was = redis.call('HMGET', workspace, 'name', 'plan', 'limits', 'status')
for i = 1, 4 do
  if (was[i] or '') ~= ARGV[i + 1] then return 0 end
end
redis.call('HSET', workspace, 'name', ARGV[6], 'plan', ARGV[7], 'limits', ARGV[8], 'status', ARGV[9])
access_changed(ARGV[1])
note_audit(ARGV[1], ARGV[10])
return 1
