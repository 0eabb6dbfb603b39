#!lua flags=allow-oom
-- Changes one field of a workspace and tells every replica. ARGV: workspace, field, value.
local workspace = K.workspace(ARGV[1])
if redis.call('EXISTS', workspace) == 0 then return 0 end
redis.call('HSET', workspace, ARGV[2], ARGV[3])
redis.call('PUBLISH', C.revoked(), ARGV[1])
return 1
