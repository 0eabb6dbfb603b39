-- The new vectors are there, and belong to their job from now on. Answers {'ok'} | {'lost', status}.
-- ARGV: ws, id, epoch, collection
local ws, id, epoch, collection = unpack(ARGV, 1, 4)
if not holds_job(ws, id, epoch) then return {'lost', redis.call('HGET', K.job(ws, id), 'status') or ''} end
redis.call('ZREM', K.vectors_left(), redis.call('HGET', K.collection(ws, collection), 'next_vectors'))
return {'ok'}
