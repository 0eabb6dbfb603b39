#!lua flags=allow-oom
-- Settles a holder's account with its workspace's bucket of requests: `kernel/metering/limits.py`, in Redis, and the
-- count of what was granted. Asked again with the same number, it answers the same and does nothing.
-- ARGV: ws, holder, key id, number of the ask, now in µs (0 is the server's), emission (0 unlimited), burst, hold,
--       back, kept, waiting, spare
-- Answer: granted, spare, remaining, wait, full, kept
local ws, holder, key, number = unpack(ARGV, 1, 4)
local now, emission, burst, hold = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local back, kept, waiting, spare = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local lease, whole = K.lease(ws, holder), '%.0f'

local was = redis.call('HMGET', lease, 'number', 'spare', 'at', 'until', 'hour', 'answer')
if was[1] == number then return cjson.decode(was[6]) end
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local held = tonumber(was[2] or 0)
local unused = math.min(back, held)
if held > 0 and (now < tonumber(was[3]) or now > tonumber(was[4])) then held = 0 end
back = math.min(back, held)
kept = math.min(kept, held - back)

local function unlimited()
  return {waiting, spare, 0, 0, 0, kept}
end

local function seen(capacity)
  local bucket = redis.call('HMGET', K.bucket(ws), 'debt', 'at', 'emission')
  if not bucket[1] then return 0 end
  local debt = math.max(0, tonumber(bucket[1]) - math.max(0, now - tonumber(bucket[2])))
  local old = tonumber(bucket[3])
  if old ~= emission then debt = math.ceil(debt / old) * emission end
  return math.min(debt, capacity)
end

local function extra_of(debt, capacity)
  if hold == 0 or kept + spare == 0 then return 0, debt end
  local raised = math.max(debt, hold + kept * emission)
  local extra = math.max(0, math.min(spare, math.floor((math.floor(capacity * 3 / 4) - raised) / emission)))
  if kept + extra == 0 then return 0, debt end
  return extra, raised + extra * emission
end

local function limited()
  local capacity = emission * burst
  local debt = math.max(0, seen(capacity) - back * emission)
  local granted = math.min(waiting, math.floor((capacity - debt) / emission))
  local extra
  extra, debt = extra_of(debt + granted * emission, capacity)
  redis.call('HSET', K.bucket(ws), 'debt', string.format(whole, debt), 'at', string.format(whole, now), 'emission', emission)
  redis.call('PEXPIRE', K.bucket(ws), math.ceil(debt / 1000) + 60000)
  local remaining = math.floor((capacity - debt) / emission)
  return {granted, extra, remaining, remaining > 0 and 0 or debt + emission - capacity, debt, kept}
end

local function count(hour, n)
  if n == 0 then return end
  redis.call('HINCRBY', K.usage(ws, hour), 'r', n)
  redis.call('HINCRBY', K.usage(ws, hour), 'r|k|' .. key, n)
end

local answer = emission == 0 and unlimited() or limited()
local hour = use_hour(ws, math.floor(now / 1000))
if unused > 0 then count(math.max(tonumber(was[5]), tonumber(redis.call('GET', K.usage_closed(ws)) or -1) + 1), -unused) end
count(hour, answer[1] + answer[2])
redis.call('HSET', lease, 'number', number, 'spare', kept + answer[2], 'at', string.format(whole, now),
  'until', string.format(whole, now + hold), 'hour', hour, 'answer', cjson.encode(answer))
redis.call('PEXPIRE', lease, 10000)
return answer
