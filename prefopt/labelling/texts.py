"""Every text of the labelling page and the headings of the spreadsheet, by language: data only."""

from __future__ import annotations

from collections.abc import Mapping

TEXTS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "title": "Which answer is better?",
        "noscript": "This page needs JavaScript, which runs in this file alone: nothing is sent anywhere.",
        "language": "中文",
        "name": "Your name",
        "need_name": "Enter your name to begin; it stands beside each of your labels.",
        "progress": "labelled",
        "count": "{done} of {all} labelled",
        "where": "{place} of {all}",
        "save": "Save to a file",
        "saved": "{count} labels saved to a file: send it back. You can go on and save again.",
        "open": "Open a saved file",
        "open.other": "{file} is not a file that this page saved.",
        "open.name": "The file is by {by}, and you are {name}: enter that name to go on with it.",
        "open.done": "{taken} labels taken from the file; {unknown} are of other pairs and were left.",
        "not_kept": "This browser keeps nothing of this page: save to a file before you close it.",
        "all_done": "All pairs are labelled. Save to a file and send it back.",
        "help": "How to label",
        "help.text": (
            "Read the prompt and both answers. Say which answer is better and by how much: significantly, clearly, "
            "slightly, or negligibly (you are unsure). If neither is better, it is a tie; if both should not be given "
            "to anybody, say both bad. Skip what you cannot judge. Some pairs come twice. What you do is kept in this "
            "browser, under your name, and leaves it only in the file that you save."
        ),
        "help.keys": (
            "Keys: 1 2 3 4 for answer A, q w e r for answer B, strongest first; t tie, b both bad, s skip; n writes a "
            "note and Esc leaves it; the arrows turn the page."
        ),
        "prompt": "Prompt",
        "answer.a": "Answer A",
        "answer.b": "Answer B",
        "judgment": "Your judgment",
        "prefer.a": "A ",
        "prefer.b": "B ",
        "grade.significantly": "significantly better",
        "grade.better": "better",
        "grade.slightly": "slightly better",
        "grade.negligibly": "negligibly better",
        "choice.tie": "Tie",
        "choice.both_bad": "Both bad",
        "choice.skip": "Skip",
        "note": "Note",
        "back": "Previous",
        "forth": "Next",
        "role.user": "User",
        "role.assistant": "Assistant",
        "role.system": "System",
        "role.tool": "Tool",
        "role.text": "Text",
    },
    "zh": {
        "title": "哪个回答更好？",
        "noscript": "本页面需要 JavaScript，只在此文件内运行，不会向任何地方发送数据。",
        "language": "English",
        "name": "您的姓名",
        "need_name": "请先填写姓名，它会记在您的每条标注旁边。",
        "progress": "已标注",
        "count": "已标注 {done} / {all}",
        "where": "第 {place} 条，共 {all} 条",
        "save": "保存为文件",
        "saved": "已将 {count} 条标注保存为文件，请把它发回。您可以继续标注并再次保存。",
        "open": "打开已保存的文件",
        "open.other": "{file} 不是由本页面保存的文件。",
        "open.name": "该文件的标注人是 {by}，而您是 {name}：如要接着标注，请先改填那个姓名。",
        "open.done": "从文件中读入 {taken} 条标注；另有 {unknown} 条属于别的回答对，未读入。",
        "not_kept": "此浏览器不保存本页面的进度：关闭之前请先保存为文件。",
        "all_done": "全部标注完毕。请保存为文件并发回。",
        "help": "标注说明",
        "help.text": (
            "请阅读提示和两个回答，判断哪个更好、好多少：明显更好、更好、略好，或好一点点（不确定）。"
            "两者不分高下时选平局；两个都不应给用户看时选都不好；无法判断时请跳过。"
            "有些回答对会出现两次。您的标注以您的姓名保存在此浏览器中，只会随您保存的文件离开。"
        ),
        "help.keys": (
            "按键：1 2 3 4 表示 A 更好，q w e r 表示 B 更好，程度由强到弱；t 平局，b 都不好，s 跳过；"
            "n 写备注，Esc 离开备注；左右方向键翻页。"
        ),
        "prompt": "提示",
        "answer.a": "回答 A",
        "answer.b": "回答 B",
        "judgment": "您的判断",
        "prefer.a": "A ",
        "prefer.b": "B ",
        "grade.significantly": "明显更好",
        "grade.better": "更好",
        "grade.slightly": "略好",
        "grade.negligibly": "好一点点（不确定）",
        "choice.tie": "平局",
        "choice.both_bad": "都不好",
        "choice.skip": "跳过",
        "note": "备注",
        "back": "上一条",
        "forth": "下一条",
        "role.user": "用户",
        "role.assistant": "助手",
        "role.system": "系统",
        "role.tool": "工具",
        "role.text": "文本",
    },
}
BCP47 = {"en": "en", "zh": "zh-Hans"}
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "en": {name: name for name in ("pair_id", "prompt", "a", "b", "choice", "grade", "note", "annotator")},
    "zh": {
        "pair_id": "编号",
        "prompt": "提示",
        "a": "回答A",
        "b": "回答B",
        "choice": "选择",
        "grade": "程度",
        "note": "备注",
        "annotator": "标注人",
    },
}
"""What the spreadsheet's columns are called; either language is read."""
CUT = {
    "en": "… [{more} more characters: read this one in index.html]",
    "zh": "……[还有 {more} 个字符：请在 index.html 中阅读]",
}
