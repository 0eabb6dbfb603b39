#!lua flags=allow-oom
-- Settles holders' accounts with their workspaces' buckets of requests: `kernel/metering/limits.py`, in Redis, and the
-- counts of what was spent. An ask that comes again with the same number, or late with an earlier one, does nothing.
-- ARGV: now in µs (0 is the server's), asks of workspaces of one shard as JSON, each an array: ws, holder, key id, number
--       of the ask, emission (0 unlimited), burst, hold in µs, whether it may spare some (0 or 1), spent, kept, waiting,
--       spare, how many are not to be counted
-- Answer: JSON, for each ask an array: granted, spare, remaining, wait, full, kept
local now, whole = tonumber(ARGV[1]), '%.0f'
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local now_text = string.format(whole, now)

local function seen(ws, emission, capacity)
  local bucket = redis.call('HMGET', K.bucket(ws), 'debt', 'at', 'emission', 'reserved')
  if not bucket[1] then return 0, 0 end
  local debt, old = math.max(0, tonumber(bucket[1]) - math.max(0, now - tonumber(bucket[2]))), tonumber(bucket[3])
  if old ~= emission then debt = math.ceil(debt / old) * emission end
  return math.min(debt, capacity), tonumber(bucket[4])
end

-- Others' leases that have ended count as spent; where no holder is left, all that is still reserved for others.
local function silent(ws, holder, reserved)
  local first, total = redis.call('ZRANGE', K.holders(ws), 0, 0, 'WITHSCORES'), 0
  if not first[1] then return math.max(0, reserved) end
  if tonumber(first[2]) >= now then return 0 end
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', K.holders(ws), '-inf', '(' .. now_text)) do
    if other ~= holder then
      total = total + tonumber(redis.call('HGET', K.lease(ws, other), 'spare') or 0)
      redis.call('HSET', K.lease(ws, other), 'spare', 0)
      redis.call('ZREM', K.holders(ws), other)
    end
  end
  return total
end

local function grant(ws, holder, emission, burst, spent, held, kept, waiting, spare)
  local capacity = emission * burst
  local debt, reserved = seen(ws, emission, capacity)
  local lost = silent(ws, holder, reserved - held)
  debt = debt + (lost + spent) * emission
  reserved = math.max(0, reserved - lost - held + kept)
  local granted = math.max(0, math.min(waiting, math.floor((capacity - debt) / emission) - reserved))
  debt = debt + granted * emission
  local upper = math.floor(capacity * 0.75)
  local extra = math.max(0, math.min(spare, math.floor((upper - debt) / emission) - reserved))
  reserved = reserved + extra
  redis.call('HSET', K.bucket(ws), 'debt', string.format(whole, debt), 'at', now_text,
    'emission', emission, 'reserved', reserved)
  redis.call('PEXPIRE', K.bucket(ws), math.ceil(debt / 1000) + 60000)
  local owed = debt + reserved * emission
  local remaining = math.max(0, math.floor((capacity - debt) / emission) - reserved)
  return granted, extra, remaining, remaining > 0 and 0 or owed + emission - capacity, owed
end

local function count(ws, key, requests)
  if requests == 0 then return end
  local usage = K.usage(ws, (use_hour(ws, math.floor(now / 1000))))
  redis.call('HINCRBY', usage, 'r', requests)
  redis.call('HINCRBY', usage, 'r|k|' .. key, requests)
end

local function hold(ws, holder, held, mine, us)
  if mine > 0 then
    redis.call('ZADD', K.holders(ws), string.format(whole, now + us), holder)
    redis.call('PEXPIRE', K.holders(ws), 60000)
  elseif held > 0 then
    redis.call('ZREM', K.holders(ws), holder)
  end
end

local function settle(ws, holder, key, number, emission, burst, us, shared, said, kept, waiting, spare, free)
  local lease = K.lease(ws, holder)
  local was = redis.call('HMGET', lease, 'number', 'spare', 'answer')
  if tonumber(was[1] or 0) >= number then return was[3] end
  local held = tonumber(was[2] or 0)
  local spent = math.min(said, held)
  kept = math.min(kept, held - spent)
  local granted, extra, remaining, wait, full = waiting, spare, 0, 0, 0
  if emission > 0 then
    granted, extra, remaining, wait, full =
      grant(ws, holder, emission, burst, spent, held, kept, waiting, shared == 1 and spare or 0)
    hold(ws, holder, held, kept + extra, us)
  end
  count(ws, key, granted + said - free)
  local answer = string.format('[%d,%d,%d,%.0f,%.0f,%d]', granted, extra, remaining, wait, full, kept)
  redis.call('HSET', lease, 'number', number, 'spare', kept + extra, 'answer', answer)
  redis.call('PEXPIRE', lease, 120000)
  return answer
end

local answers = {}
for i, ask in ipairs(cjson.decode(ARGV[2])) do answers[i] = settle(unpack(ask)) end
return '[' .. table.concat(answers, ',') .. ']'
