#!lua flags=allow-oom
-- Closes hours: from here on nothing is added to them. Days without any bucket need no file, so they count as in Parquet.
-- ARGV: ws, last hour to close, the oldest that may have a bucket
-- Answer: the last closed hour, then the closed hours that have a bucket
local ws, oldest = ARGV[1], tonumber(ARGV[3])
local closed = tonumber(redis.call('GET', K.usage_closed(ws)) or -1)
local last = math.max(tonumber(ARGV[2]), closed)
if last > closed then redis.call('SET', K.usage_closed(ws), last) end

local rolled = tonumber(redis.call('GET', K.usage_rolled(ws)) or 0)
local out = {last}
for hour = math.max(rolled, rolled == 0 and oldest or 0), last do
  if redis.call('EXISTS', K.usage(ws, hour)) == 1 then out[#out + 1] = hour end
end
local first = out[2] or last + 1
first = first - first % 24
if first > rolled then redis.call('SET', K.usage_rolled(ws), first) end
return out
