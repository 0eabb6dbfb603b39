-- Gives an endpoint other secrets, if it still is at the revision that was read; else answers 0.
-- ARGV: ws, id, revision, sealed, now, idempotency record ('' none), audit entry
local ws, id, revision, sealed, now = unpack(ARGV, 1, 5)
local record = K.webhook(ws, id)
if redis.call('HGET', record, 'revision') ~= revision then return 0 end
if not owns_key(ARGV[6], id) then return 'superseded' end
redis.call('HSET', record, 'sealed', sealed, 'rotated_at', now)
redis.call('HINCRBY', record, 'revision', 1)
note_audit(ws, ARGV[7])
return 1
