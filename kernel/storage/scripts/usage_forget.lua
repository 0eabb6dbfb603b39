#!lua flags=allow-oom
-- Forgets the buckets from `first` up to, but not with, `after`, which are in Parquet, and notes which hour is the
-- workspace's oldest now. ARGV: ws, first, after, the newest hour that may have a bucket
local ws, first, after, newest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local rolled = tonumber(redis.call('GET', K.usage_rolled(ws)) or 0)
if rolled <= first then
  for hour = first, after - 1 do redis.call('UNLINK', K.usage(ws, hour)) end
  redis.call('SET', K.usage_rolled(ws), after)
end
for hour = math.max(rolled, after), newest do
  if redis.call('EXISTS', K.usage(ws, hour)) == 1 then
    redis.call('ZADD', K.metered(), hour, ws)
    return
  end
end
redis.call('ZREM', K.metered(), ws)
