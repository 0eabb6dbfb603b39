-- Settles a block of a job's documents: manifest, counts, usage and events, all of it once or nothing of it.
-- Answers {'ok'} | {'counted'}: this block was before | {'clash', document ids…}: these have changed since they were
-- read | {'moved'}: the collection's vectors are elsewhere, or
-- will be in a moment | {'lost', status}: the job is not this driver's.
-- ARGV: ws, id, epoch, block, now, collection, live, what was embedded as JSON, then of each document: id, outcome (done, kept: done before a driver
--       was lost, skipped, failed), SHA-1 of its entry as it was read ('' for none), new entry ('' stays), chunks, bytes,
--       note as JSON, how to find it again as JSON ('' not kept)
local ws, id, epoch, block, now, collection, live, embedded = unpack(ARGV, 1, 8)
local record, manifest = K.job(ws, id), K.documents(ws, collection)
if not holds_job(ws, id, epoch) then return {'lost', redis.call('HGET', record, 'status') or ''} end
if redis.call('GETBIT', K.job_blocks(ws, id), block) == 1 then return {'counted'} end
local found = redis.call('HMGET', K.collection(ws, collection), 'live', 'held')
if found[1] ~= live or found[2] then return {'moved'} end

local clashes = {'clash'}
for i = 9, #ARGV, 8 do
  local entry = ARGV[i + 3] ~= '' and redis.call('HGET', manifest, ARGV[i])
  if ARGV[i + 3] ~= '' and (entry and redis.sha1hex(entry) or '') ~= ARGV[i + 2] then
    clashes[#clashes + 1] = ARGV[i]
  end
end
if #clashes > 1 then return clashes end

local counts, taken, events = {done = 0, skipped = 0, failed = 0, chunks = 0, bytes = 0}, 0, {}
for i = 9, #ARGV, 8 do
  local document, outcome, _, entry, chunks, bytes, note, found = unpack(ARGV, i, i + 7)
  if entry ~= '' then put_document(ws, collection, document, entry) end
  if outcome == 'done' then taken = taken + bytes end
  if outcome == 'kept' then outcome = 'done' end
  if outcome == 'failed' then events[#events + 1] = {'document.failed', note} end
  counts[outcome], counts.chunks, counts.bytes = counts[outcome] + 1, counts.chunks + chunks, counts.bytes + bytes
  if found ~= '' then note = string.sub(note, 1, -2) .. ',"found":' .. found .. '}' end
  keep_document(ws, id, outcome, note)
end
redis.call('SETBIT', K.job_blocks(ws, id), block, 1)
for name, count in pairs(counts) do redis.call('HINCRBY', record, name, count) end
if taken > 0 then redis.call('HSET', record, 'deliveries', 0) end
count_ingested(ws, id, tonumber(now), collection, taken)
count_embedded(ws, tonumber(now), redis.call('HGET', record, 'key'), embedded)
tell_progress(ws, id, tonumber(now), events)
return {'ok'}
