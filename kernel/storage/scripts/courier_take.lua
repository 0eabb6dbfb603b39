#!lua flags=allow-oom
-- Takes deliveries that are due, of those endpoints first that wait longest. One whose last attempt failed has one at
-- a time; an endpoint with all it may have leaves `due` until one of them ends.
-- ARGV: name, now, how many, how many to one endpoint. Answer: nothing when another courier has the shard, else of each
-- endpoint ws, id, item, sealed, whose secrets those are, then of each delivery {event id, attempt, body}
local name, now, room, each = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('GET', K.courier()) ~= name then return false end

-- The next delivery to an endpoint; nothing when its body is gone: it is dead then.
local function taken(ws, webhook, id)
  local delivery = cjson.decode(redis.call('HGET', K.webhook_deliveries(ws, webhook), id))
  local body = redis.call('HGET', K.message(ws, id), 'body')
  if body then
    redis.call('ZREM', K.webhook_queue(ws, webhook), id)
    redis.call('SADD', K.webhook_flying(ws, webhook), id)
    return {id, delivery.tries + 1, body}
  end
  delivery.status, delivery.attempts = 'dead', delivery.attempts or {}
  table.insert(delivery.attempts, {at = now, duration_ms = 0, status_code = cjson.null, error = 'expired', body = ''})
  put_delivery(ws, webhook, id, delivery, 'pending')
end

local out = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', K.due(), '-inf', now, 'LIMIT', 0, room)) do
  if room < 1 then break end
  local ws, webhook = string.match(member, '^(%S+) (%S+)$')
  local found = redis.call('HMGET', K.webhook(ws, webhook), 'item', 'sealed', 'failing_since')
  local signer = found[2] and webhook or 'signing'
  local free = (found[3] and 1 or each) - redis.call('SCARD', K.webhook_flying(ws, webhook))
  local row = {ws, webhook, found[1], found[2] or redis.call('HGET', K.webhook(ws, signer), 'sealed'), signer}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.webhook_queue(ws, webhook), '-inf', now, 'LIMIT', 0,
      math.max(0, math.min(free, room)))) do
    row[#row + 1] = taken(ws, webhook, id)
  end
  room, free = room - (#row - 5), free - (#row - 5)
  if #row > 5 then
    redis.call('SADD', K.aloft(), member)
    out[#out + 1] = row
  end
  if free > 0 then settle_due(ws, webhook) else redis.call('ZREM', K.due(), member) end
  settle_once(ws, webhook)
end
return out
