#!lua flags=allow-oom
-- Takes documents out of a collection's manifest. Answers how many were in it. ARGV: ws, collection, document ids
local removed = 0
for i = 3, #ARGV do
  if drop_document(ARGV[1], ARGV[2], ARGV[i]) then removed = removed + 1 end
end
return removed
