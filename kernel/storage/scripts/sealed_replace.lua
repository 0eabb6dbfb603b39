-- The same value under another key-encryption key, or 0 when it is not what was read.
-- ARGV: name of the hash after the prefix, its field `sealed` as read, the new one
local name = KEYS[1] .. ':' .. ARGV[1]
if redis.call('HGET', name, 'sealed') ~= ARGV[2] then return 0 end
redis.call('HSET', name, 'sealed', ARGV[3])
return 1
