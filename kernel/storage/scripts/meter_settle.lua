#!lua flags=allow-oom
-- Settles a holder's account with its workspace's bucket of requests: `kernel/metering/limits.py`, in Redis, and the
-- count of what was spent. Asked again with the same number, or late with an earlier one, it does nothing.
-- ARGV: ws, holder, key id, number of the ask, now in µs (0 is the server's), emission (0 unlimited), burst, hold in µs,
--       whether it may spare some (0 or 1), spent, kept, waiting, spare, how many are not to be counted
-- Answer: granted, spare, remaining, wait, full, kept
local ws, holder, key, number = unpack(ARGV, 1, 4)
local now, emission, burst, hold = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local shared, spent, kept = ARGV[9] == '1', tonumber(ARGV[10]), tonumber(ARGV[11])
local waiting, spare = tonumber(ARGV[12]), tonumber(ARGV[13])
local lease, whole = K.lease(ws, holder), '%.0f'

local was = redis.call('HMGET', lease, 'number', 'spare', 'answer')
if tonumber(was[1] or 0) >= tonumber(number) then return cjson.decode(was[3]) end
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local said, held = spent, tonumber(was[2] or 0)
spent = math.min(spent, held)
kept = math.min(kept, held - spent)

local function seen()
  local bucket = redis.call('HMGET', K.bucket(ws), 'debt', 'at', 'emission', 'reserved')
  if not bucket[1] then return 0, 0 end
  local debt, old = math.max(0, tonumber(bucket[1]) - math.max(0, now - tonumber(bucket[2]))), tonumber(bucket[3])
  if old ~= emission then debt = math.ceil(debt / old) * emission end
  return math.min(debt, emission * burst), tonumber(bucket[4])
end

-- Others' leases that have ended count as spent; where no holder is left, all that is still reserved.
local function silent(reserved)
  if redis.call('EXISTS', K.holders(ws)) == 0 then return reserved - held end
  local total = 0
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', K.holders(ws), '-inf', '(' .. string.format(whole, now))) do
    if other ~= holder then
      total = total + tonumber(redis.call('HGET', K.lease(ws, other), 'spare') or 0)
      redis.call('HSET', K.lease(ws, other), 'spare', 0)
      redis.call('ZREM', K.holders(ws), other)
    end
  end
  return total
end

local function limited()
  local capacity, debt, reserved = emission * burst, seen()
  local lost = math.max(0, silent(reserved))
  debt = debt + (lost + spent) * emission
  reserved = math.max(0, reserved - lost - held + kept)
  local granted = math.max(0, math.min(waiting, math.floor((capacity - debt) / emission) - reserved))
  debt = debt + granted * emission
  local extra = 0
  if shared then
    extra = math.max(0, math.min(spare, math.floor((math.floor(capacity * 0.75) - debt) / emission) - reserved))
  end
  reserved = reserved + extra
  redis.call('HSET', K.bucket(ws), 'debt', string.format(whole, debt), 'at', string.format(whole, now),
    'emission', emission, 'reserved', reserved)
  redis.call('PEXPIRE', K.bucket(ws), math.ceil(debt / 1000) + 60000)
  local owed = debt + reserved * emission
  local remaining = math.max(0, math.floor((capacity - debt) / emission) - reserved)
  return {granted, extra, remaining, remaining > 0 and 0 or owed + emission - capacity, owed, kept}
end

local answer = emission == 0 and {waiting, spare, 0, 0, 0, kept} or limited()
local count = answer[1] + said - tonumber(ARGV[14])
if count ~= 0 then
  local usage = K.usage(ws, (use_hour(ws, math.floor(now / 1000))))
  redis.call('HINCRBY', usage, 'r', count)
  redis.call('HINCRBY', usage, 'r|k|' .. key, count)
end
local mine = kept + answer[2]
redis.call('HSET', lease, 'number', number, 'spare', mine, 'answer', cjson.encode(answer))
redis.call('PEXPIRE', lease, 120000)
if emission > 0 then
  if mine > 0 then
    redis.call('ZADD', K.holders(ws), string.format(whole, now + hold), holder)
    redis.call('PEXPIRE', K.holders(ws), 60000)
  elseif held > 0 then
    redis.call('ZREM', K.holders(ws), holder)
  end
end
return answer
