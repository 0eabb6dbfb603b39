#!lua flags=allow-oom
-- Takes documents that are gone from their source out of the manifest, those that nobody has changed since they were
-- read. Answers {'ok', document ids…} | {'lost', status}.
-- ARGV: ws, id, epoch, now, collection, then of each document: id, SHA-1 of its entry, note as JSON
local ws, id, epoch, now, collection = unpack(ARGV, 1, 5)
if not holds_job(ws, id, epoch) then return {'lost', redis.call('HGET', K.job(ws, id), 'status') or ''} end
local out = {'ok'}
for i = 6, #ARGV, 3 do
  local entry = redis.call('HGET', K.documents(ws, collection), ARGV[i])
  if entry and redis.sha1hex(entry) == ARGV[i + 1] then
    drop_document(ws, collection, ARGV[i])
    keep_document(ws, id, 'deleted', ARGV[i + 2])
    out[#out + 1] = ARGV[i]
  end
end
redis.call('HINCRBY', K.job(ws, id), 'deleted', #out - 1)
tell_progress(ws, id, tonumber(now), {})
return out
