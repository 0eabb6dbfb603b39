-- Keeps vectors for later; the oldest make room. ARGV: ws, how many there may be, seconds they live, name and vector of
-- each
local ws, most, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local vectors, times, now = K.embeddings(ws), K.embeddings_at(ws), server_now()
for i = 4, #ARGV, 2 do
  redis.call('HSET', vectors, ARGV[i], ARGV[i + 1])
  redis.call('ZADD', times, now, ARGV[i])
end
local over = redis.call('ZCARD', times) - most
if over > 0 then
  local popped = redis.call('ZPOPMIN', times, over)
  for i = 1, #popped, 2 do redis.call('HDEL', vectors, popped[i]) end
end
redis.call('EXPIRE', vectors, ttl)
redis.call('EXPIRE', times, ttl)
