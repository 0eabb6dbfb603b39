-- Takes a row out of the outbox and makes a delivery of it for each endpoint that wants the event; once.
-- ARGV: name, row, ws, event, event id, body, now, how many deliveries may wait for one endpoint, then of an execution
--       whose end goes to a URL of its own: an id for that as an endpoint, and its item as JSON
-- Answer: 0 when another courier has the shard.
local name, row, ws, event, id, body = unpack(ARGV, 1, 6)
local now, most = tonumber(ARGV[7]), tonumber(ARGV[8])
if redis.call('GET', K.courier()) ~= name then return 0 end
if redis.call('XDEL', K.outbox(), row) == 0 then return 1 end

local takers = {}
for _, webhook in ipairs(redis.call('ZRANGE', K.webhooks(ws), 0, -1)) do
  local found = redis.call('HMGET', K.webhook(ws, webhook), 'state', 'events')
  local wanted = ' ' .. (found[2] or '') .. ' '
  if found[1] == 'enabled' and (wanted == ' * ' or string.find(wanted, ' ' .. event .. ' ', 1, true)) then
    takers[#takers + 1] = webhook
  end
end
if ARGV[9] then
  redis.call('HSET', K.webhook(ws, ARGV[9]), 'item', ARGV[10], 'state', 'enabled', 'once', 1)
  takers[#takers + 1] = ARGV[9]
end
if #takers > 0 then put_message(ws, id, body) end
for _, webhook in ipairs(takers) do add_delivery(ws, webhook, id, event, now, most) end
return 1
