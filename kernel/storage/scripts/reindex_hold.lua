-- Lets no job take documents in until the re-index has ended: they wait. Answers {'ok'} | {'lost', status}.
-- ARGV: ws, id, epoch, collection
local ws, id, epoch, collection = unpack(ARGV, 1, 4)
if not holds_job(ws, id, epoch) then return {'lost', redis.call('HGET', K.job(ws, id), 'status') or ''} end
redis.call('HSET', K.collection(ws, collection), 'held', 1)
return {'ok'}
