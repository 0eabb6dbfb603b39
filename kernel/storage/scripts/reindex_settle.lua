#!lua flags=allow-oom
-- Takes versions of documents off those that a re-index has to look at again: such as are in its vectors and shown, or
-- are neither. Answers {'ok'} | {'lost', status}.
-- ARGV: ws, id, epoch, collection, then of each: `<document id> <version>`, 1 if its chunks were deleted
local ws, id, epoch, collection = unpack(ARGV, 1, 4)
if not holds_job(ws, id, epoch) then return {'lost', redis.call('HGET', K.job(ws, id), 'status') or ''} end
local number = tonumber(redis.call('HGET', K.collection(ws, collection), 'next'))
for i = 5, #ARGV, 2 do
  local document, version = string.match(ARGV[i], '^(%S+) (%S+)$')
  local text = redis.call('HGET', K.documents(ws, collection), document)
  local entry = text and decoded(text) or {}
  local shown, gone = tostring(entry.version) == version, ARGV[i + 1] == '1'
  if shown and remade(entry, number) or gone and not shown then
    redis.call('SREM', K.documents_behind(ws, collection), ARGV[i])
  end
end
return {'ok'}
