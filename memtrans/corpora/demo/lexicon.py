"""The words of the demo corpus, as tables: what agrees with what, and who can sensibly do what to what.

German is spelt as in print; English is British. A `-` stands for "none". `words` reads the tables.
"""

# German | gender (w: weak masculine, whose other cases look like the plural) | plural | English | plural | kinds
# Two senses of one German word are two rows: their kinds keep them in different company (see FRAMES).
NOUNS = """
Lehrer     m Lehrer        teacher   teachers   person,adult
Lehrerin   f Lehrerinnen   teacher   teachers   person,adult
Arzt       m Ärzte         doctor    doctors    person,adult
Ärztin     f Ärztinnen     doctor    doctors    person,adult
Nachbar    w Nachbarn      neighbour neighbours person,adult
Nachbarin  f Nachbarinnen  neighbour neighbours person,adult
Mann       m Männer        man       men        person,adult
Frau       f Frauen        woman     women      person,adult
Kind       n Kinder        child     children   person
Vater      m -             father    -          kin
Mutter     f -             mother    -          kin
Bruder     m Brüder        brother   brothers   kin
Schwester  f Schwestern    sister    sisters    kin
Sohn       m -             son       -          kin
Tochter    f -             daughter  -          kin
Tür        f Türen         door      doors      opening,painted
Fenster    n Fenster       window    windows    opening
Koffer     m Koffer        suitcase  suitcases  opening,luggage
Schrank    m Schränke      cupboard  cupboards  opening,painted,furniture
Licht      n -             light     -          light
Lampe      f Lampen        lamp      lamps      device
Radio      n Radios        radio     radios     device
Computer   m Computer      computer  computers  device
Mantel     m Mäntel        coat      coats      clothes
Hut        m Hüte          hat       hats       clothes
Jacke      f Jacken        jacket    jackets    clothes
Hemd       n Hemden        shirt     shirts     clothes
Buch       n Bücher        book      books      text,gift
Brief      m Briefe        letter    letters    text,letter
Zeitung    f Zeitungen     newspaper newspapers text
Film       m Filme         film      films      film
Auto       n Autos         car       cars       vehicle
Fahrrad    n Fahrräder     bicycle   bicycles   vehicle
Zug        m -             train     -          transport
Bus        m -             bus       -          transport
Tisch      m Tische        table     tables     furniture
Stuhl      m Stühle        chair     chairs     furniture
Schlüssel  m Schlüssel     key       keys       small
Tasche     f Taschen       bag       bags       small,luggage
Uhr        f Uhren         watch     watches    small,gift
Apfel      m Äpfel         apple     apples     food
Ei         n Eier          egg       eggs       food
Suppe      f -             soup      -          dish
Kaffee     m -             coffee    -          drink
Tee        m -             tea       -          drink
Milch      f -             milk      -          drink
Küche      f -             kitchen   -          room,painted
Zimmer     n Zimmer        room      rooms      room,painted
Museum     n -             museum    -          sight
Bank       f -             bench     -          bench
Bank       f -             bank      -          bank
Schloss    n -             castle    -          castle
Schloss    n -             lock      -          lock
Decke      f -             ceiling   -          ceiling
Decke      f -             blanket   -          blanket
Birne      f -             pear      -          pear
Birne      f -             bulb      -          bulb
"""

# German | English | quality (a noun phrase and its predicate never speak of the same one) | uses | kinds it suits
# Uses: a before a noun, p after "ist". "groß" is "tall" of people and "big" of things.
ADJECTIVES = """
alt         old         age    ap adult,clothes,device,vehicle,furniture,opening,small,luggage,bench,castle,blanket
neu         new         age    a  clothes,device,vehicle,furniture,small,luggage,opening,lock,bench,bulb
jung        young       age    ap adult
groß        tall        size   ap adult
groß        big         size   ap clothes,vehicle,furniture,device,luggage,opening,castle,blanket
klein       small       size   ap clothes,vehicle,furniture,device,luggage,opening,bench,lock
rot         red         colour ap clothes,vehicle,opening,luggage,furniture,bench,blanket
blau        blue        colour ap clothes,vehicle,opening,luggage,furniture,bench,blanket
schön       beautiful   looks  ap clothes,vehicle,furniture,castle,blanket
interessant interesting looks  ap text,film
freundlich  friendly    looks  ap person
schwer      heavy       weight p  luggage,furniture,device
teuer       expensive   price  p  clothes,device,vehicle,furniture,luggage,small
kaputt      broken      state  p  device,vehicle,small
"""

# key | particle | ich er wir | participle | auxiliary | English: to, she, yesterday, -ing | +after or before its object
VERBS = """
open      auf    mache macht machen gemacht haben          | open opens opened opening
close     zu     mache macht machen gemacht haben          | close closes closed closing
turn-on   an     mache macht machen gemacht haben          | turn turns turned turning +on
turn-off  aus    mache macht machen gemacht haben          | turn turns turned turning +off
put-on    an     ziehe zieht ziehen gezogen haben          | put puts put putting +on
take-off  aus    ziehe zieht ziehen gezogen haben          | take takes took taking +off
call      an     rufe ruft rufen gerufen haben             | call calls called calling
pick-up   ab     hole holt holen geholt haben              | pick picks picked picking +up
invite    ein    lade lädt laden geladen haben             | invite invites invited inviting
tidy      auf    räume räumt räumen geräumt haben          | tidy tidies tidied tidying
watch-tv  fern   sehe sieht sehen gesehen haben            | watch watches watched watching +television
get-up    auf    stehe steht stehen gestanden sein         | get gets got getting +up
come-back zurück komme kommt kommen gekommen sein          | come comes came coming +back
arrive    an     komme kommt kommen gekommen sein          | arrive arrives arrived arriving
leave     ab     fahre fährt fahren gefahren sein          | leave leaves left leaving
shop      ein    kaufe kauft kaufen gekauft haben          | go goes went going +shopping
listen-to zu     höre hört hören gehört haben              | listen listens listened listening to
give-back zurück gebe gibt geben gegeben haben             | give gives gave giving +back
give      -      gebe gibt geben gegeben haben             | give gives gave giving
buy       -      kaufe kauft kaufen gekauft haben          | buy buys bought buying
sell      -      verkaufe verkauft verkaufen verkauft haben | sell sells sold selling
repair    -      repariere repariert reparieren repariert haben | repair repairs repaired repairing
wash      -      wasche wäscht waschen gewaschen haben     | wash washes washed washing
paint     -      streiche streicht streichen gestrichen haben | paint paints painted painting
change    -      wechsle wechselt wechseln gewechselt haben | change changes changed changing
visit     -      besuche besucht besuchen besucht haben    | visit visits visited visiting
read      -      lese liest lesen gelesen haben            | read reads read reading
eat       -      esse isst essen gegessen haben            | eat eats ate eating
drink     -      trinke trinkt trinken getrunken haben     | drink drinks drank drinking
look-for  -      suche sucht suchen gesucht haben          | look looks looked looking for
find      -      finde findet finden gefunden haben        | find finds found finding
lose      -      verliere verliert verlieren verloren haben | lose loses lost losing
know      -      kenne kennt kennen gekannt haben          | know knows knew knowing
need      -      brauche braucht brauchen gebraucht haben  | need needs needed needing
see       -      sehe sieht sehen gesehen haben            | see sees saw seeing
help      -      helfe hilft helfen geholfen haben         | help helps helped helping
wait      -      warte wartet warten gewartet haben        | wait waits waited waiting
work      -      arbeite arbeitet arbeiten gearbeitet haben | work works worked working
live      -      wohne wohnt wohnen gewohnt haben          | live lives lived living
go        -      gehe geht gehen gegangen sein             | go goes went going
travel    -      fahre fährt fahren gefahren sein          | go goes went going
like      -      gefalle gefällt gefallen gefallen haben   | like likes liked liking
belong    -      gehöre gehört gehören gehört haben        | belong belongs belonged belonging to
"""

# verb | subject | object's case | its kinds | its determiners | places | uses
# Determiners: d the, i a, p the subject's own, n counted or bare plural, 0 none. A receiver is written "kind>kind".
# Uses: h habit, g going on, f future, p past, m modal, s state, i command; c takes a time of day, C needs one,
# l may be long ago or far ahead, o takes no weekday (or English would say "on on").
FRAMES = """
open      who       acc  opening            d   -       hgfpmi
close     who       acc  opening            d   -       hgfpmi
turn-on   who       acc  device,light       d   -       hgfpmio
turn-off  who       acc  device,light       d   -       hgfpmi
put-on    who       acc  clothes            dp  -       gpmio
take-off  who       acc  clothes            dp  -       gpmi
call      who       acc  human              p   -       hgfpmic
call      who       acc  bank               d   -       fpmi
pick-up   who       acc  human              p   station fpmic
invite    who       acc  human              p   -       fpml
tidy      who       acc  room               d   -       hgfpmi
watch-tv  who       -    -                  -   indoors hgfpm
get-up    who       -    -                  -   -       hfpmC
come-back who       -    -                  -   -       fpmcl
arrive    who       -    -                  -   city    fpcl
arrive    transport -    -                  -   city    fpc
leave     transport -    -                  -   -       fpc
shop      who       -    -                  -   town    hfpm
listen-to who       dat  human              p   -       gpmi
give-back who       acc  human>gift,vehicle dp  -       fpml
give      who       acc  human>gift,small   di  -       fpml
buy       who       acc  clothes,furniture,device,vehicle,luggage din town fpml
buy       who       acc  food,gift          din town    fpm
sell      who       acc  furniture,device,vehicle dp -  fpml
repair    who       acc  device,vehicle     dp  -       gfpml
repair    who       acc  lock               d   -       gfpml
wash      who       acc  clothes,vehicle    dp  -       gfpm
wash      who       acc  blanket            d   -       gfpm
paint     who       acc  painted            d   -       gfpml
paint     who       acc  bench,ceiling      d   -       gfpml
change    who       acc  bulb               d   -       gfpm
visit     who       acc  human              p   -       hfpml
visit     who       acc  sight              d   -       fpml
visit     who       acc  castle             d   -       fpml
read      who       acc  text               di  rest    hgfpm
eat       who       acc  food,dish          d   home    gpm
eat       who       acc  pear               d   -       gpm
drink     who       acc  drink              0   home    hgpm
look-for  who       acc  small,clothes      dp  -       gp
find      who       acc  small,clothes      dp  -       pl
lose      who       acc  small,clothes      dp  -       pl
know      who       acc  human              -   -       s
need      who       acc  clothes,furniture,device,vehicle,small in - s
see       who       acc  human              p   town    p
see       who       acc  film               di  -       fpm
help      who       dat  human              p   -       hfpm
wait      who       auf  human,transport    d   station gpm
work      who       -    -                  -   work    hgfpm
live      who       -    -                  -   city    s
go        who       -    -                  -   goal    hfpm
travel    who       -    -                  -   trip    fpml
"""

# group | German = English. Some verbs cannot do without one: see `grammar`.
PLACES = """
rest    | im Park = in the park; im Garten = in the garden; zu Hause = at home; auf der Bank = on the bench
home    | in der Küche = in the kitchen; im Garten = in the garden; zu Hause = at home
indoors | in der Küche = in the kitchen; zu Hause = at home
work    | bei der Bank = at the bank; in der Schule = at the school; im Garten = in the garden; zu Hause = at home
town    | in der Stadt = in town; in Berlin = in Berlin; in Wien = in Vienna; in Köln = in Cologne
station | am Bahnhof = at the station
city    | in Berlin = in Berlin; in Hamburg = in Hamburg; in Wien = in Vienna; in München = in Munich; \
in Köln = in Cologne; in Rom = in Rome
trip    | nach Berlin = to Berlin; nach Hamburg = to Hamburg; nach Wien = to Vienna; nach München = to Munich; \
nach Köln = to Cologne; nach Rom = to Rome
goal    | in den Park = to the park; in den Garten = into the garden; in die Küche = into the kitchen; \
zur Schule = to school; nach Hause = home; in die Stadt = into town; ins Museum = to the museum; \
zum Bahnhof = to the station
manner  | mit dem Zug = by train; mit dem Bus = by bus; mit dem Auto = by car
"""

# What fixes the English tense: the German present serves for habits, for what goes on now and for the future.
TIMES = """
past        | gestern = yesterday; gestern Abend = yesterday evening; heute Morgen = this morning
future      | morgen = tomorrow; morgen Abend = tomorrow evening; heute Abend = this evening
habit       | jeden Tag = every day; jeden Morgen = every morning; jeden Abend = every evening
adverb      | oft = often; immer = always; nie = never
"""

DAYS = "Montag=Monday Dienstag=Tuesday Mittwoch=Wednesday Donnerstag=Thursday Freitag=Friday Samstag=Saturday"
MONTHS = "März=March April=April Mai=May Juni=June Juli=July Oktober=October"
NUMERALS = "zwei=two drei=three vier=four fünf=five sechs=six sieben=seven acht=eight neun=nine zehn=ten"
UNITS = "Tagen=days Wochen=weeks Monaten=months Jahren=years"
WOMEN = ["Anna", "Maria", "Lena", "Clara", "Emma", "Julia"]
MEN = ["Paul", "Peter", "Jonas", "Felix", "Leon", "Max"]
FAMILIES = ["Weber", "Fischer", "Schmidt", "Wagner", "Becker", "Hoffmann"]

# key | nominative accusative dative | English subject object | agreement | German and English possessive
PRONOUNS = """
I    ich mich mir   I    me   1s mein  my
you  du  dich dir   you  you  2s dein  your
he   er  ihn  ihm   he   him  3s sein  his
she  sie sie  ihr   she  her  3s ihr   her
we   wir uns  uns   we   us   1p unser our
they sie sie  ihnen they them 3p ihr   their
it-m er  ihn  ihm   it   it   3s sein  its
it-f sie sie  ihr   it   it   3s ihr   its
it-n es  es   ihm   it   it   3s sein  its
"""

# ich du er wir
AUXILIARIES = {
    "haben": "habe hast hat haben",
    "sein": "bin bist ist sind",
    "will": "werde wirst wird werden",
    "can": "kann kannst kann können",
    "must": "muss musst muss müssen",
    "want": "will willst will wollen",
    "should": "soll sollst soll sollen",
}
