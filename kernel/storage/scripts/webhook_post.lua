#!lua
-- Makes an event for one endpoint alone, and ends its pause: somebody waits for it. Answers ok, there, gone, disabled, full or superseded.
-- ARGV: ws, webhook, event id, event, body, now, how many deliveries may wait, idempotency record ('' none), audit entry
local ws, webhook, id, event, body, now, most = unpack(ARGV, 1, 7)
local state = redis.call('HGET', K.webhook(ws, webhook), 'state')
if not state then return 'gone' end
if redis.call('HEXISTS', K.webhook_deliveries(ws, webhook), id) == 1 then return 'there' end
if state ~= 'enabled' then return 'disabled' end
if is_full_of_deliveries(ws, webhook, most) then return 'full' end
if not owns_key(ARGV[8], id) then return 'superseded' end
put_message(ws, id, body)
redis.call('HDEL', K.webhook(ws, webhook), 'paused_until')
add_delivery(ws, webhook, id, {event = event}, tonumber(now), most)
close_message(ws, id)
note_audit(ws, ARGV[9])
redis.call('PUBLISH', C.outbox(), KEYS[1])
return 'ok'
