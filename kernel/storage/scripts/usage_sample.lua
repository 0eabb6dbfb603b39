#!lua flags=allow-oom
-- Adds a sample of what a workspace stores, and of what some of its collections do. ARGV: ws, now, bytes, then id and
-- bytes of each collection
local ws = ARGV[1]
local bucket = K.usage(ws, (use_hour(ws, tonumber(ARGV[2]))))
redis.call('HINCRBY', bucket, 'b', ARGV[3])
redis.call('HINCRBY', bucket, 's', 1)
for i = 4, #ARGV, 2 do
  redis.call('HINCRBY', bucket, 'b|o|' .. ARGV[i], ARGV[i + 1])
  redis.call('HINCRBY', bucket, 's|o|' .. ARGV[i], 1)
end
