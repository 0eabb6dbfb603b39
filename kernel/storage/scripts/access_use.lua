-- Notes when a key was last used, unless it is gone. ARGV: key id, now.
local key = K.key(ARGV[1])
if redis.call('EXISTS', key) == 1 then redis.call('HSET', key, 'used', ARGV[2]) end
