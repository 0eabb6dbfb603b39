-- Puts the new vectors of a collection in use, once they have every document of the manifest and nothing else, and ends
-- the job that made them. Those in use until now are to be dropped a little later: searches under way read them.
-- Answers {'ok'} | {'behind'} | {'changed'}: the collection is not as it was read | {'lost', status}.
-- ARGV: ws, id, epoch, collection, revision, item, now, when the old vectors are to be dropped, what their name begins with
local ws, id, epoch, collection, revision, item, now, until_ms, stem = unpack(ARGV, 1, 9)
local record = K.collection(ws, collection)
if not holds_job(ws, id, epoch) then return {'lost', redis.call('HGET', K.job(ws, id), 'status') or ''} end
local found = redis.call('HMGET', record, 'revision', 'live', 'next', 'next_chunks', 'next_documents')
if found[1] ~= revision then return {'changed'} end
local documents = redis.call('HLEN', K.documents(ws, collection))
if redis.call('SCARD', K.documents_behind(ws, collection)) > 0 or tonumber(found[5]) ~= documents then return {'behind'} end

redis.call('HSET', record, 'item', item, 'live', found[3], 'chunks', found[4])
redis.call('HINCRBY', record, 'revision', 1)
redis.call('ZADD', K.vectors_left(), until_ms, stem .. found[2])
redis.call('UNLINK', K.documents_stale(ws, collection))
settle_stale(ws, collection)
leave_reindex(ws, collection)
note_listed(ws, id, 0, '1')
finish_job(ws, id, 'completed', tonumber(now), '')
return {'ok'}
