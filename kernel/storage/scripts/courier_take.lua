#!lua flags=allow-oom
-- Takes deliveries that are due, of those workspaces and endpoints first that wait longest. An endpoint whose last
-- attempt failed has one at a time, and only while half of its workspace's places are free; `signing` stands for all
-- URLs of executions. An endpoint with all it may have leaves `webhooks_due` until one of them ends; a workspace that
-- lacks places is asked for again in a second, or when one of its deliveries ends.
-- ARGV: name, now, how many, how many to endpoints that fail, how many to one endpoint, how many of one workspace,
--       then of each workspace with deliveries in flight: ws, how many those are
-- Answer: nothing when another courier has the shard, else of each endpoint ws, id, item, sealed, whether it
-- fails (0 or 1), then of each delivery {event id, attempt, body, its own URL or ''}
if redis.call('GET', K.courier()) ~= ARGV[1] then return false end
local now, room, weak = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local each, most = tonumber(ARGV[5]), tonumber(ARGV[6])
local aloft, out = {}, {}
for i = 7, #ARGV, 2 do aloft[ARGV[i]] = tonumber(ARGV[i + 1]) end

-- The next delivery to an endpoint; nothing when its body is gone: it is dead then.
local function taken(ws, webhook, id)
  local delivery = cjson.decode(redis.call('HGET', K.webhook_deliveries(ws, webhook), id))
  local body = redis.call('HGET', K.message(ws, id), 'body')
  if body then
    redis.call('ZREM', K.webhook_queue(ws, webhook), id)
    redis.call('SADD', K.webhook_flying(ws, webhook), id)
    return {id, delivery.tries + 1, body, delivery.url or ''}
  end
  delivery.status, delivery.attempts = 'dead', delivery.attempts or {}
  table.insert(delivery.attempts, {at = now, duration_ms = 0, status_code = cjson.null, error = 'expired', body = ''})
  put_delivery(ws, webhook, id, delivery, 'pending')
end

-- How many an endpoint may have at once.
local function limit(webhook, fails)
  if not fails then return each end
  return webhook == 'signing' and math.ceil(each / 2) or 1
end

-- Takes what an endpoint may have. False when it had more, were there places for its workspace or for those that fail.
local function serve(ws, webhook)
  local found = redis.call('HMGET', K.webhook(ws, webhook), 'item', 'sealed', 'failing_since')
  local fails, flying = found[3], aloft[ws] or 0
  local free = limit(webhook, fails) - redis.call('SCARD', K.webhook_flying(ws, webhook))
  local share = fails and math.min(weak, math.ceil(most / 2) - flying) or most - flying
  local row = {ws, webhook, found[1], found[2], fails and 1 or 0}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.webhook_queue(ws, webhook), '-inf', now, 'LIMIT', 0,
      math.max(0, math.min(free, share, room)))) do
    row[#row + 1] = taken(ws, webhook, id)
  end
  local count = #row - 5
  if count > 0 then
    redis.call('SADD', K.aloft(), ws .. ' ' .. webhook)
    out[#out + 1] = row
  end
  room, weak, aloft[ws] = room - count, fails and weak - count or weak, flying + count
  if free > count then
    settle_due(ws, webhook)
  else
    redis.call('ZREM', K.webhooks_due(ws), webhook)
  end
  return free <= share
end

local function visit(ws)
  local lacks = false
  for _, webhook in ipairs(redis.call('ZRANGEBYSCORE', K.webhooks_due(ws), '-inf', now)) do
    if room < 1 then break end
    lacks = not serve(ws, webhook) or lacks
  end
  settle_workspace(ws)
  if lacks and room > 0 then redis.call('ZADD', K.due(), 'XX', 'GT', string.format('%.0f', now + 1000), ws) end
end

for _ = 1, room + 500 do
  local ws = redis.call('ZRANGEBYSCORE', K.due(), '-inf', now, 'LIMIT', 0, 1)[1]
  if room < 1 or not ws then break end
  visit(ws)
end
return out
