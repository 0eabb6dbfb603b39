#!lua flags=allow-oom
-- Records what became of deliveries in flight. An endpoint that says it is gone is disabled at once, one that has failed
-- for 5 days then.
-- ARGV: name, now, until when endpoints that failed pause, then of each: ws, webhook, event id, verdict, when to try again, attempt as JSON, audit entry
-- Answer: nothing when another courier has the shard, else {ws, webhook, reason} of those that are disabled now
if redis.call('GET', K.courier()) ~= ARGV[1] then return false end
local now, out = tonumber(ARGV[2]), {}

-- Adds an attempt to a delivery: the last 20 stay, and what was answered to the last one alone.
local function note_attempt(delivery, attempt)
  local attempts = delivery.attempts or {}
  if #attempts > 0 then attempts[#attempts].body = nil end
  attempts[#attempts + 1] = attempt
  if #attempts > 20 then table.remove(attempts, 1) end
  delivery.attempts, delivery.tries = attempts, delivery.tries + 1
end

-- Why an endpoint is to be disabled after an attempt, if it is. One that failed pauses. `signing`, that is all URLs of executions, does neither.
local function judge(ws, webhook, verdict, at)
  local record = K.webhook(ws, webhook)
  if verdict == 'delivered' then
    redis.call('HDEL', record, 'failing_since', 'paused_until')
    return
  end
  redis.call('HSETNX', record, 'failing_since', string.format('%.0f', at))
  if webhook == 'signing' then return end
  redis.call('HSET', record, 'paused_until', ARGV[3])
  local is = redis.call('HMGET', record, 'state', 'failing_since')
  if is[1] ~= 'enabled' then return end
  if verdict == 'gone' then return 'gone' end
  if now - is[2] >= 432000000 then return 'failing' end
end

local function conclude(ws, webhook, id, verdict, retry_at, text, audit)
  local attempt = cjson.decode(text)
  local delivery = cjson.decode(redis.call('HGET', K.webhook_deliveries(ws, webhook), id))
  note_attempt(delivery, attempt)
  delivery.status = ({delivered = 'delivered', retry = 'pending'})[verdict] or 'dead'
  put_delivery(ws, webhook, id, delivery, 'pending')
  if webhook == 'signing' and verdict == 'delivered' then forget_delivery(ws, webhook, id, 'delivered') end
  if verdict == 'retry' then redis.call('ZADD', K.webhook_queue(ws, webhook), retry_at, id) end
  local last = {id = id, event = delivery.event, at = attempt.at, status_code = attempt.status_code, error = attempt.error}
  redis.call('HSET', K.webhook(ws, webhook), 'last', cjson.encode(last))
  local reason = judge(ws, webhook, verdict, attempt.at)
  if reason then
    disable_webhook(ws, webhook, reason, audit)
    out[#out + 1] = {ws, webhook, reason}
  end
end

for i = 4, #ARGV, 7 do
  local ws, webhook, id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local flying = K.webhook_flying(ws, webhook)
  if redis.call('SREM', flying, id) == 1 then conclude(ws, webhook, id, unpack(ARGV, i + 3, i + 6)) end
  if redis.call('EXISTS', flying) == 0 then redis.call('SREM', K.aloft(), ws .. ' ' .. webhook) end
  settle_due(ws, webhook)
end
return out
