#!lua flags=no-writes
-- Usage of the hours from `first` to `last` as far as it is here: the first hour that is not in Parquet, then for each
-- hour that has a bucket {hour, totals in the order of the metrics, field and count by turns of the kind}.
-- ARGV: ws, first, last, kind ('' none), metrics…
local ws, first, last, kind = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local metrics = {unpack(ARGV, 5)}

local function totals(bucket)
  local found, any = redis.call('HMGET', bucket, unpack(metrics)), false
  for i = 1, #metrics do
    any = any or found[i]
    found[i] = found[i] or '0'
  end
  return any and table.concat(found, ' ')
end

local function groups(bucket)
  local found, cursor = {}, '0'
  if kind == '' then return found end
  repeat
    local answer = redis.call('HSCAN', bucket, cursor, 'MATCH', '?|' .. kind .. '|*', 'COUNT', 10000)
    cursor = answer[1]
    for i = 1, #answer[2], 2 do found[answer[2][i]] = answer[2][i + 1] end
  until cursor == '0'
  local flat = {}
  for field, count in pairs(found) do
    flat[#flat + 1] = field
    flat[#flat + 1] = count
  end
  return flat
end

local rolled = tonumber(redis.call('GET', K.usage_rolled(ws)) or 0)
local out = {rolled}
for hour = math.max(first, rolled), last do
  local bucket = K.usage(ws, hour)
  local sums = totals(bucket)
  if sums then out[#out + 1] = {hour, sums, groups(bucket)} end
end
return out
