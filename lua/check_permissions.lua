-- Tries commands on a key that does not exist, each in a form that writes nothing, and returns which are refused.
-- KEYS
--   vs:probe{TAG}  NONE  never created; the tag decides the slot
-- ARGV
--   call_id        the call id: every reply begins with it
--   trials         commands with their arguments, separated by commas; '@' is replaced by the key
-- Status
--   tried          for each trial the error of the refusal, or ''
local key, call_id, trials = KEYS[1], ARGV[1], ARGV[2]

local reply = {call_id, 'tried'}
for trial in string.gmatch(trials, '[^,]+') do
  local command = {}
  for part in string.gmatch(trial, '%S+') do
    command[#command + 1] = part == '@' and key or part
  end
  local answer = redis.pcall(unpack(command))
  reply[#reply + 1] = type(answer) == 'table' and answer.err or ''
end
return reply
