from .llama_factory import migrated_file as migrated_file
from .notes import Migrated as Migrated
from .notes import Note as Note
from .trl_script import migrated_script as migrated_script
