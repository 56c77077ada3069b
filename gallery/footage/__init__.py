"""From pictures and video to crops of people: find files, decode, detect, track, write crops and their table."""
