-- Settles a block of documents whose chunks are in the new vectors; one that has changed since it was read is left to
-- `documents_behind`, where it stands already. Answers {'ok'} | {'counted'}: this block was before | {'lost', status}.
-- ARGV: ws, id, epoch, block, now, collection, what was embedded as JSON, then of each document: id, SHA-1 of its entry as
--       it was read, new entry ('' had been settled before), chunks, bytes, note as JSON
local ws, id, epoch, block, now, collection, embedded = unpack(ARGV, 1, 7)
if not holds_job(ws, id, epoch) then return {'lost', redis.call('HGET', K.job(ws, id), 'status') or ''} end
if redis.call('GETBIT', K.job_blocks(ws, id), block) == 1 then return {'counted'} end
local counts, fresh = {done = 0, chunks = 0, bytes = 0}, false
for i = 8, #ARGV, 6 do
  local document, read, entry, chunks, bytes, note = unpack(ARGV, i, i + 5)
  local text = redis.call('HGET', K.documents(ws, collection), document)
  if text and redis.sha1hex(text) == read then
    if entry ~= '' then
      fresh = true
      count_remade(ws, collection, decoded(text), -1)
      redis.call('HSET', K.documents(ws, collection), document, entry)
      count_remade(ws, collection, decoded(entry), 1)
      redis.call('SREM', K.documents_behind(ws, collection), document .. ' ' .. tostring(decoded(entry).version))
    end
    counts.done, counts.chunks, counts.bytes = counts.done + 1, counts.chunks + chunks, counts.bytes + bytes
    keep_document(ws, id, 'done', note)
  end
end
redis.call('SETBIT', K.job_blocks(ws, id), block, 1)
for name, count in pairs(counts) do redis.call('HINCRBY', K.job(ws, id), name, count) end
if fresh then redis.call('HSET', K.job(ws, id), 'deliveries', 0) end
count_embedded(ws, tonumber(now), redis.call('HGET', K.job(ws, id), 'key'), embedded)
tell_progress(ws, id, tonumber(now), {})
return {'ok'}
