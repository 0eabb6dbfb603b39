-- Replaces a key's record if it still is the one that was read. ARGV: key id, record as read, new record.
local key = K.key(ARGV[1])
if redis.call('HGET', key, 'record') ~= ARGV[2] then return 0 end
redis.call('HSET', key, 'record', ARGV[3])
redis.call('PUBLISH', C.revoked(), ARGV[1])
return 1
