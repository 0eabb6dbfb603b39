-- Makes an uploaded file known, for a time. Answers ok, gone (its collection) or superseded.
-- ARGV: ws, id, collection, name, size, version, media type, ms it is kept, idempotency record ('' none)
local ws, id, collection, name, size, version, media_type, keep = unpack(ARGV, 1, 8)
if redis.call('EXISTS', K.collection(ws, collection)) == 0 then return 'gone' end
if not owns_key(ARGV[9], id) then return 'superseded' end
redis.call('HSET', K.upload(ws, id), 'collection', collection, 'name', name, 'size', size, 'version', version,
  'media_type', media_type)
redis.call('PEXPIRE', K.upload(ws, id), keep)
return 'ok'
