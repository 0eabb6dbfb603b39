-- Changes an endpoint that still is at the revision that was read, else answers 0. What waits for one that is enabled
-- again is delivered.
-- ARGV: ws, id, revision, item, events, enabled (0 or 1), audit entry
local ws, id, revision, item, events = unpack(ARGV, 1, 5)
local record, enabled = K.webhook(ws, id), ARGV[6] == '1'
local was = redis.call('HMGET', record, 'revision', 'state', 'events')
if was[1] ~= revision then return 0 end
if was[2] == 'enabled' then count_wants(ws, was[3], -1) end
if enabled then count_wants(ws, events, 1) end
redis.call('HSET', record, 'item', item, 'events', events, 'state', enabled and 'enabled' or 'disabled')
redis.call('HINCRBY', record, 'revision', 1)
if enabled then
  redis.call('HDEL', record, 'disabled_reason')
  if was[2] ~= 'enabled' then redis.call('HDEL', record, 'failing_since', 'paused_until') end
  redis.call('PUBLISH', C.outbox(), KEYS[1])
elseif was[2] == 'enabled' then
  redis.call('HSET', record, 'disabled_reason', 'requested')
end
settle_due(ws, id)
note_audit(ws, ARGV[7])
return 1
