-- A new endpoint. Answers ok, there, full or superseded.
-- ARGV: ws, id, item, events, sealed, enabled (0 or 1), how many there may be, idempotency record ('' none), audit entry
local ws, id, item, events, sealed = unpack(ARGV, 1, 5)
local record, enabled = K.webhook(ws, id), ARGV[6] == '1'
if redis.call('EXISTS', record) == 1 then return 'there' end
if redis.call('ZCARD', K.webhooks(ws)) >= tonumber(ARGV[7]) then return 'full' end
if not owns_key(ARGV[8], id) then return 'superseded' end
redis.call('HSET', record, 'item', item, 'revision', 1, 'events', events, 'sealed', sealed, 'state',
  enabled and 'enabled' or 'disabled')
if not enabled then redis.call('HSET', record, 'disabled_reason', 'requested') end
redis.call('ZADD', K.webhooks(ws), 0, id)
redis.call('SADD', K.sealed(), ws .. ' wh ' .. id)
if enabled then count_wants(ws, events, 1) end
note_audit(ws, ARGV[9])
return 'ok'
