-- Accepts a job that makes a collection's vectors anew, for one that still is at the revision that was read and has no
-- such job under way; its name and item may change with it. Answers {'ok'}, {'busy', job} or {why not}: gone, changed,
-- taken, full, superseded.
-- ARGV: ws, id, collection, order as JSON, size, key, retry_of, now, most active, idempotency record ('' none),
--       revision, its name and the new one in lower case, item, what it is to become as JSON, number of the new vectors,
--       their name, which were to be dropped
local ws, id, collection, order, size, key, retry_of, now = unpack(ARGV, 1, 8)
local revision, was, name, item, target, number, vectors = unpack(ARGV, 11, 17)
local record = K.collection(ws, collection)
if redis.call('EXISTS', K.job(ws, id)) == 1 then return {'ok'} end
local found = redis.call('HMGET', record, 'revision', 'reindex')
if not found[1] then return {'gone'} end
if found[2] then return {'busy', found[2]} end
if found[1] ~= revision then return {'changed'} end
if redis.call('SCARD', K.jobs_active(ws)) >= tonumber(ARGV[9]) then return {'full'} end
if not is_free_name(ws, collection, name) then return {'taken'} end
if not owns_key(ARGV[10], id) then return {'superseded'} end

rename_collection(ws, collection, was, name)
redis.call('HSET', record, 'item', item, 'reindex', id, 'target', target, 'next', number, 'next_vectors', vectors,
  'next_chunks', 0, 'next_documents', 0)
redis.call('HINCRBY', record, 'revision', 1)
redis.call('ZREM', K.vectors_left(), vectors)
return add_job(ws, id, collection, order, size, key, retry_of, now)
