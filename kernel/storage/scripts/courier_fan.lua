#!lua
-- Takes a row out of the outbox and makes a delivery of it for each endpoint that wants the event; once. Refused as a
-- whole while the store is full: the row stays.
-- ARGV: name, row, ws, event, event id, body, now, how many deliveries may wait for one endpoint, then of an execution
--       whose end goes to a URL of its own: that, and its id
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
if #takers == 0 and not ARGV[9] then return 1 end
put_message(ws, id, body)
for _, webhook in ipairs(takers) do add_delivery(ws, webhook, id, {event = event}, now, most) end
if ARGV[9] then
  add_delivery(ws, 'signing', id, {event = event, url = ARGV[9], execution_id = ARGV[10]}, now, most)
end
close_message(ws, id)
return 1
