-- Replaces a key's record if it still is the one that was read. ARGV: workspace, key id, record as read, new record, audit.
local key = K.key(ARGV[2])
if redis.call('HGET', key, 'record') ~= ARGV[3] then return 0 end
redis.call('HSET', key, 'record', ARGV[4])
access_changed(ARGV[2])
note_audit(ARGV[1], ARGV[5])
return 1
