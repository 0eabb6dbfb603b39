#!lua flags=allow-oom
-- Ends a queued execution at once; a held one is marked and its runner told.
-- ARGV: ws, id, now, event as JSON
local ws, id, now, event = unpack(ARGV, 1, 4)
local record = K.execution(ws, id)
local was = redis.call('HMGET', record, 'status', 'seq', 'owner')
if not was[1] then return {'gone'} end
if was[1] ~= 'running' then return {'ended', was[1]} end
if redis.call('ZREM', K.queue(ws), id) == 1 then
  append(ws, id, was[2] + 1, event)
  redis.call('HSET', record, 'seq', was[2] + 1)
  finish(ws, id, 'cancelled', now, {})
  announce(ws, id, was[2] + 1, {event})
  return {'cancelled'}
end
redis.call('HSET', record, 'cancel', '1', 'phase', 'cancelling')
redis.call('PUBLISH', C.orders(was[3]), ws .. ' ' .. id)
return {'cancelling'}
