-- A page of a workspace's keys, newest first. ARGV: workspace, id to begin after or '', offset, count.
-- Answer: total, then record and last use of each.
local set = K.workspace_keys(ARGV[1])
local from = ARGV[2] == '' and '+' or '(' .. ARGV[2]
local answer = {redis.call('ZCARD', set)}
for _, id in ipairs(redis.call('ZREVRANGEBYLEX', set, from, '-', 'LIMIT', ARGV[3], ARGV[4])) do
  local key = redis.call('HMGET', K.key(id), 'record', 'used')
  answer[#answer + 1] = key[1]
  answer[#answer + 1] = key[2]
end
return answer
