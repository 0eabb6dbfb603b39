#!lua flags=allow-oom
-- Adds a sample of what a workspace stores. ARGV: ws, now, bytes
local ws = ARGV[1]
local bucket = K.usage(ws, (use_hour(ws, tonumber(ARGV[2]))))
redis.call('HINCRBY', bucket, 'b', ARGV[3])
redis.call('HINCRBY', bucket, 's', 1)
