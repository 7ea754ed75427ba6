"""What instructions are made of, in English and Chinese: data only. The lists are our own."""

from typing import NamedTuple


class Words(NamedTuple):
    """One expression in both languages."""

    en: str
    zh: str

    def of(self, language: str) -> str:
        return self.en if language == "en" else self.zh


HOBBIES = (
    Words("tennis", "网球"),
    Words("chess", "象棋"),
    Words("gardening", "园艺"),
    Words("fishing", "钓鱼"),
    Words("painting", "画画"),
    Words("cooking", "做饭"),
    Words("photography", "摄影"),
    Words("swimming", "游泳"),
    Words("pottery", "陶艺"),
    Words("knitting", "编织"),
    Words("hiking", "徒步"),
    Words("calligraphy", "书法"),
    Words("astronomy", "天文"),
    Words("cycling", "骑车"),
    Words("origami", "折纸"),
    Words("birdwatching", "观鸟"),
)
PERSONAS = (
    Words("Napoleon", "拿破仑"),
    Words("Confucius", "孔子"),
    Words("Einstein", "爱因斯坦"),
    Words("Cleopatra", "克利奥帕特拉"),
    Words("Shakespeare", "莎士比亚"),
    Words("Mozart", "莫扎特"),
    Words("Marie Curie", "居里夫人"),
    Words("Li Bai", "李白"),
    Words("Sun Wukong", "孙悟空"),
    Words("Sherlock Holmes", "福尔摩斯"),
    Words("Leonardo da Vinci", "达芬奇"),
    Words("Galileo", "伽利略"),
    Words("Zheng He", "郑和"),
    Words("Aristotle", "亚里士多德"),
)
# The language, and the script by which an answer shows it. French and English share theirs, so that of the languages
# in Latin letters there is English alone.
LANGUAGES = (
    (Words("English", "英语"), "latin"),
    (Words("Chinese", "中文"), "han"),
    (Words("Russian", "俄语"), "cyrillic"),
    (Words("Japanese", "日语"), "kana"),
    (Words("Korean", "韩语"), "hangul"),
    (Words("Arabic", "阿拉伯语"), "arabic"),
    (Words("Greek", "希腊语"), "greek"),
    (Words("Hindi", "印地语"), "devanagari"),
)
LONG = {
    "hobby": Words("Your hobby is {value}, and you always remember that.", "你的爱好是{value}，请一直记住。"),
    "language": Words("Always answer in {value} from now on.", "从现在起请一直用{value}回答。"),
    "persona": Words("Always act as {value} from now on.", "从现在起请一直扮演{value}。"),
}
SHORT = {
    "hobby": Words("Hobby: {value}", "爱好：{value}"),
    "language": Words("Language: {value}", "语言：{value}"),
    "persona": Words("Figure: {value}", "人物：{value}"),
}
PROBES = {"hobby": Words("What is your hobby?", "你的爱好是什么？"), "persona": Words("Who are you?", "你是谁？")}
"""Questions whose answers show whether an instruction is kept that other answers need not show."""
