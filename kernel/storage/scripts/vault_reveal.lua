-- Judges one try to read a credential's value, and writes it into the audit log before anything is answered.
-- Answers ok with item, revision, version and sealed value; locked with the ms that are left of it; or why not: wrong (no
-- token of that hash), expired, key (bound to another one), credential (does not open this one), missing (there is no such
-- credential), used_up. Five wrong ones in a row lock a key out.
-- ARGV: ws, credential ('' what is no id), now, key, id of the token ('' what is none), hash of what was sent, audit entry
--       when it succeeds, and when not (the reason at its end is `?`), how many wrong ones lock out, ms for which
local ws, id, now, key, token, hash = unpack(ARGV, 1, 6)
local most, lasts, wrong = tonumber(ARGV[9]), tonumber(ARGV[10]), K.vault_wrong(ws, key)
now = tonumber(now)

local function refuse(reason, left)
  note_vault(ws, id, (string.gsub(ARGV[8], '"%?"}}$', '"' .. reason .. '"}}')))
  return {reason, left}
end

local tries = redis.call('HMGET', wrong, 'count', 'until')
local count, ends = tonumber(tries[1] or 0), tonumber(tries[2] or 0)
if now >= ends then count = 0 end
if count >= most then return refuse('locked', ends - now) end

local found = redis.call('HMGET', K.vault_token(ws, token), 'hash', 'until', 'key', 'credentials', 'left')
if found[1] ~= hash then
  redis.call('HSET', wrong, 'count', count + 1, 'until', string.format('%.0f', now + lasts))
  redis.call('PEXPIRE', wrong, lasts)
  return refuse('wrong')
end
if now >= tonumber(found[2]) then return refuse('expired') end
if found[3] ~= '' and found[3] ~= key then return refuse('key') end
if found[4] ~= '' and not string.find(' ' .. found[4] .. ' ', ' ' .. id .. ' ', 1, true) then return refuse('credential') end
local credential = redis.call('HMGET', K.credential(ws, id), 'item', 'revision', 'version', 'sealed')
if not credential[1] then return refuse('missing') end
if found[5] == '0' then return refuse('used_up') end
if found[5] ~= '' then redis.call('HINCRBY', K.vault_token(ws, token), 'left', -1) end
if count > 0 then redis.call('DEL', wrong) end
note_vault(ws, id, ARGV[7])
return {'ok', unpack(credential)}
