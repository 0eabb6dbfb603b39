#!lua flags=no-writes
-- The credential that opens a model provider: named like it, else tagged, of several the newest; one of the environment goes
-- before one of none, and another environment's is none. Answers nothing, or id, item, revision, version and sealed value.
-- ARGV: ws, provider in lower case, environment
local ws, provider, environment = ARGV[1], ARGV[2], ARGV[3]
local of_any

local function row(id, item)
  return {id, item, unpack(redis.call('HMGET', K.credential(ws, id), 'revision', 'version', 'sealed'))}
end

local ids = redis.call('ZREVRANGE', K.credentials_by(ws, 'tag', provider), 0, -1)
local named = redis.call('HGET', K.credential_names(ws), provider)
if named then table.insert(ids, 1, named) end
for _, id in ipairs(ids) do
  local item = redis.call('HGET', K.credential(ws, id), 'item')
  local of = item and cjson.decode(item).environment
  if of == environment then return row(id, item) end
  if of == cjson.null and not of_any then of_any = row(id, item) end
end
return of_any
