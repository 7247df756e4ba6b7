-- Tries commands on a key that is nobody's, each in a form that writes nothing, and tells which are refused.
-- KEYS
--   vs:probe{TAG}  NONE  never there; the tag decides the slot
-- ARGV
--   trials         commands, a comma between; '@' stands for the key
-- Status
--   tried          for each trial why it was refused, or ''
local key, trials = KEYS[1], ARGV[1]

local reply = {'tried'}
for trial in string.gmatch(trials, '[^,]+') do
  local words = {}
  for word in string.gmatch(trial, '%S+') do
    words[#words + 1] = word == '@' and key or word
  end
  local answer = redis.pcall(unpack(words))
  reply[#reply + 1] = type(answer) == 'table' and answer.err or ''
end
return reply
