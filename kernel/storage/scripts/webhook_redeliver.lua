#!lua
-- Makes an ended delivery due again, now, with all its tries before it, and ends the endpoint's pause. Answers ok, or why not.
-- ARGV: ws, webhook, event id, now, how many deliveries may wait, idempotency record ('' none), audit entry
local ws, webhook, id, now, most = unpack(ARGV, 1, 5)
local text = redis.call('HGET', K.webhook_deliveries(ws, webhook), id)
if not text then return 'unknown' end
local delivery = cjson.decode(text)
local was = delivery.status
if was == 'pending' then return 'pending' end
if redis.call('HGET', K.webhook(ws, webhook), 'state') ~= 'enabled' then return 'disabled' end
if redis.call('EXISTS', K.message(ws, id)) == 0 then return 'expired' end
if is_full_of_deliveries(ws, webhook, most) then return 'full' end
if not owns_key(ARGV[6], id) then return 'superseded' end
delivery.status, delivery.tries = 'pending', 0
put_delivery(ws, webhook, id, delivery, was)
redis.call('EXPIRE', K.message(ws, id), 604800)
redis.call('ZADD', K.webhook_queue(ws, webhook), now, id)
redis.call('HDEL', K.webhook(ws, webhook), 'paused_until')
settle_due(ws, webhook)
note_audit(ws, ARGV[7])
redis.call('PUBLISH', C.outbox(), KEYS[1])
return 'ok'
