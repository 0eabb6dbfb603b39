#!lua flags=allow-oom
-- Ends a key of a workspace at once. ARGV: workspace, key id, record as read ('' any).
local key = K.key(ARGV[2])
local found = redis.call('HMGET', key, 'workspace', 'record')
if found[1] ~= ARGV[1] or (ARGV[3] ~= '' and found[2] ~= ARGV[3]) then return 0 end
redis.call('DEL', key)
redis.call('ZREM', K.workspace_keys(ARGV[1]), ARGV[2])
redis.call('PUBLISH', C.revoked(), ARGV[2])
return 1
