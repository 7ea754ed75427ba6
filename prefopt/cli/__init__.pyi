from .commands import all_commands as all_commands
from .entry import main as main
