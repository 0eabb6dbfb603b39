#!lua flags=no-writes
-- An endpoint that somebody made: item, revision, sealed, state, disabled reason, failing since, last, rotated at. ARGV: ws, id
local row = redis.call('HMGET', K.webhook(ARGV[1], ARGV[2]), 'item', 'revision', 'sealed', 'state', 'disabled_reason',
  'failing_since', 'last', 'rotated_at')
return row[2] and row
