-- A new vault token. Answers ok, key (there is no such API key), superseded, or the number of the first credential there
-- is none of.
-- ARGV: ws, id, hash, until (ms), uses ('' any number), API key it is bound to ('' none), credentials it opens between spaces
--       ('' all), ms it is kept, id of a token to end ('' none), idempotency record ('' none), audit entry
local ws, id, hash, ends, left, key, credentials = unpack(ARGV, 1, 7)
local number = 0
for credential in string.gmatch(credentials, '%S+') do
  number = number + 1
  if redis.call('EXISTS', K.credential(ws, credential)) == 0 then return number end
end
if key ~= '' and redis.call('HGET', K.key(key), 'workspace') ~= ws then return 'key' end
if not owns_key(ARGV[10], id) then return 'superseded' end
redis.call('DEL', K.vault_token(ws, ARGV[9]))
redis.call('HSET', K.vault_token(ws, id), 'hash', hash, 'until', ends, 'left', left, 'key', key, 'credentials', credentials)
redis.call('PEXPIRE', K.vault_token(ws, id), ARGV[8])
note_vault(ws, '', ARGV[11])
return 'ok'
