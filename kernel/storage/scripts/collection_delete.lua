#!lua flags=allow-oom
-- Ends a collection that still is at the revision that was read, else answers 0: record, name, manifest and jobs. Its
-- vectors are to be dropped then.
-- ARGV: ws, id, revision, its name in lower case, what the name of its vectors begins with
local ws, id = ARGV[1], ARGV[2]
local found = redis.call('HMGET', K.collection(ws, id), 'revision', 'live', 'next_vectors')
if found[1] ~= ARGV[3] then return 0 end
for _, job in ipairs(redis.call('ZRANGE', K.jobs_by(ws, id), 0, -1)) do forget_job(ws, id, job) end
redis.call('ZADD', K.vectors_left(), 0, ARGV[5] .. found[2])
if found[3] then redis.call('ZADD', K.vectors_left(), 0, found[3]) end
use_credentials(ws, 'collection ' .. id, '')
redis.call('HDEL', K.collection_names(ws), ARGV[4])
redis.call('ZREM', K.collections(ws), id)
redis.call('UNLINK', K.collection(ws, id), K.documents(ws, id), K.documents_by_id(ws, id), K.documents_newest(ws, id),
  K.documents_kinds(ws, id), K.documents_stale(ws, id), K.documents_behind(ws, id), K.jobs_by(ws, id))
settle_stale(ws, id)
return 1
