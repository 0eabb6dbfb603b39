#!lua flags=allow-oom
-- Ends a key of a workspace at once. ARGV: workspace, key id.
local key = K.key(ARGV[2])
if redis.call('HGET', key, 'workspace') ~= ARGV[1] then return 0 end
redis.call('DEL', key)
redis.call('ZREM', K.workspace_keys(ARGV[1]), ARGV[2])
redis.call('PUBLISH', C.revoked(), ARGV[2])
return 1
