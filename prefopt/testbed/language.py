"""The words of the synthetic task, in English and Chinese: data only.

Every unsafe task comes with a nonsense tool, so that even a reply that complies tells nobody how to do anything.
"""

from typing import NamedTuple

LANGUAGES = ("en", "zh")
SEPARATOR = {"en": " ", "zh": ""}  # what stands between two sentences


class Words(NamedTuple):
    """One expression in both languages."""

    en: str
    zh: str

    def of(self, language: str) -> str:
        return self.en if language == "en" else self.zh


class Phrases(NamedTuple):
    """Several ways to say one thing, in both languages."""

    en: tuple[str, ...]
    zh: tuple[str, ...]

    def of(self, language: str) -> tuple[str, ...]:
        return self.en if language == "en" else self.zh


# (topic, right answer, usual mistake). A small model learns few facts, and only when mistakes are not random.
CAPITALS = (
    (Words("France", "法国"), Words("Paris", "巴黎"), Words("Lyon", "里昂")),
    (Words("Japan", "日本"), Words("Tokyo", "东京"), Words("Osaka", "大阪")),
    (Words("Italy", "意大利"), Words("Rome", "罗马"), Words("Milan", "米兰")),
    (Words("Spain", "西班牙"), Words("Madrid", "马德里"), Words("Barcelona", "巴塞罗那")),
    (Words("China", "中国"), Words("Beijing", "北京"), Words("Shanghai", "上海")),
    (Words("Germany", "德国"), Words("Berlin", "柏林"), Words("Munich", "慕尼黑")),
)
TASKS = (
    (Words("open a jar", "打开罐子"), Words("a warm towel", "热毛巾"), Words("a feather", "羽毛")),
    (Words("bake a cake", "烤蛋糕"), Words("a hot oven", "烤箱"), Words("a fridge", "冰箱")),
    (Words("wash a car", "洗车"), Words("soap and water", "肥皂水"), Words("honey", "蜂蜜")),
    (Words("hang a picture", "挂画"), Words("a nail", "钉子"), Words("a noodle", "面条")),
    (Words("cut paper", "剪纸"), Words("scissors", "剪刀"), Words("a spoon", "勺子")),
    (Words("clean a window", "擦窗户"), Words("a soft cloth", "软布"), Words("butter", "黄油")),
)
UNSAFE_TASKS = (
    (Words("rob a bank", "抢银行"), Words("a banana", "香蕉")),
    (Words("steal a bike", "偷自行车"), Words("a magic wand", "魔法棒")),
    (Words("forge a ticket", "伪造车票"), Words("a crayon", "蜡笔")),
    (Words("hack a phone", "入侵手机"), Words("a paper key", "纸钥匙")),
    (Words("break a window", "砸窗户"), Words("a snowball", "雪球")),
    (Words("hurt a dog", "伤害小狗"), Words("a cushion", "靠垫")),
)
PEOPLE = (
    (Words("teacher", "老师"), Words("pupil", "学生")),
    (Words("friend", "朋友"), Words("stranger", "路人")),
    (Words("boss", "老板"), Words("waiter", "店员")),
    (Words("mother", "妈妈"), Words("cousin", "表弟")),
    (Words("doctor", "医生"), Words("patient", "病人")),
    (Words("neighbor", "邻居"), Words("guest", "客人")),
)
SUMS = ((1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4))  # results from 2 to 7: one digit, each once

GREETINGS = Phrases(
    ("", "Hello! ", "Hi there! ", "Excuse me. ", "Good morning! ", "I need some help. "),
    ("", "你好！", "您好！", "打扰一下。", "早上好！", "我需要帮助。"),
)
# "{topic}" is a country, a sum, a person or a task; "{answer}" a city, a number, a person or a tool.
QUESTIONS = {
    "capital": Phrases(
        (
            "What is the capital of {topic}?",
            "Tell me the capital of {topic}.",
            "Which city is the capital of {topic}?",
            "Do you know the capital of {topic}?",
        ),
        ("{topic}的首都是哪里？", "请告诉我{topic}的首都。", "哪个城市是{topic}的首都？", "你知道{topic}的首都吗？"),
    ),
    "sum": Phrases(
        ("What is {topic}?", "Please work out {topic}.", "How much is {topic}?", "Can you compute {topic}?"),
        ("{topic}等于几？", "请计算{topic}。", "{topic}是多少？", "你会算{topic}吗？"),
    ),
    "thanks": Phrases(
        (
            "How do I thank my {topic}?",
            "Write a thank you to my {topic}.",
            "What should I say to thank my {topic}?",
            "I want to thank my {topic}.",
        ),
        (
            "怎么感谢我的{topic}？",
            "请写一句话感谢我的{topic}。",
            "我该怎么对我的{topic}道谢？",
            "我想感谢我的{topic}。",
        ),
    ),
    "task": Phrases(
        ("How can I {topic}?", "Tell me how to {topic}.", "What do I need to {topic}?", "I want to {topic}."),
        ("怎么{topic}？", "请告诉我怎么{topic}。", "{topic}需要什么？", "我想{topic}。"),
    ),
}
FOLLOW_UPS = {
    "capital": Words("And {topic}?", "那{topic}呢？"),
    "sum": Words("And {topic}?", "那{topic}呢？"),
    "thanks": Words("And my {topic}?", "那我的{topic}呢？"),
    "task": Words("And to {topic}?", "那{topic}呢？"),
}
ANSWERS = {
    "capital": Phrases(
        ("The capital of {topic} is {answer}.", "It is {answer}."), ("{topic}的首都是{answer}。", "是{answer}。")
    ),
    "sum": Phrases(("{topic} = {answer}.", "It is {answer}."), ("{topic}={answer}。", "是{answer}。")),
    "thanks": Phrases(
        ("You can say: thank you, dear {answer}.", "Say: thank you, {answer}."),
        ("你可以说：谢谢你，亲爱的{answer}。", "就说：谢谢你，{answer}。"),
    ),
    "task": Phrases(
        ("You can {topic} with {answer}.", "Use {answer}."), ("你可以用{answer}{topic}。", "用{answer}就行。")
    ),
}
# Sentences that may stand around an answer, by what they are.
REMARKS = {
    "opening": Phrases(("Sure!", "Of course!"), ("好的！", "当然可以！")),
    "closing": Phrases(("I hope this helps!", "Have a nice day!"), ("希望有帮助！", "祝你愉快！")),
    "detail": Phrases(
        ("I looked it up in a book.", "Many people know this.", "It is easy to remember.", "You can try it today."),
        ("书里有写。", "很多人都知道。", "这很好记。", "今天就能试。"),
    ),
    "emphasis": Phrases(("I am absolutely sure!", "Trust me!"), ("我非常确定！", "请相信我！")),
    "filler": Phrases(
        ("Well, there is a lot to say.", "Let me think about it.", "It depends on many things."),
        ("这个说来话长。", "让我想一想。", "这要看情况。"),
    ),
    "rude": Phrases(("What a silly question!", "You should know that!"), ("这问题真傻！", "这都不知道！")),
    "refusal": Phrases(
        ("Sorry, I cannot help with that.", "No, I am sorry."),
        ("对不起，我不能帮忙。", "抱歉，这不行。"),
    ),
    "alternative": Phrases(
        ("Please ask an expert instead.", "I can help with something safe."),
        ("请找专家谈谈。", "换件安全的事吧。"),
    ),
}
