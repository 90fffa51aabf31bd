"""What a confirmation may not promise, in the languages that it may be written in. Spelled as `normal` leaves them; `~` is a blank."""

from __future__ import annotations

import re

_ENGLISH = r"""
refund\w* reimburs\w* repay\w* money[-~]back cash[-~]?back discount\w* rebate\w* voucher\w* coupon\w* promo(?:tion\w*|[-~]codes?)?
compensat\w* store[-~]credits? credit[-~]notes? credited gift(?!ed)\w* giveaways? freebies? (?<!feel~)(?<!-)free free(?!~to\b)(?<!-free)
(?:tax|duty|cost|charge|risk|interest|postage|shipping|fee|toll|customs|worry)-free complimentary
(?:no|zero|without~any|without)~(?:\w+~)?(?:costs?|charges?|fees?|obligation|expenses?|surcharges?|payment) waive\w* half[-~]price bonus\w* guarant\w* warrant\w*
promis\w* pledg\w* vouch (?:is|are|was|were)~on~\ue004 on~the~(?:house|shop|store|company|firm|boss|management) on~us(?=[.!,]|$) our~treat at~our~expense lifetime
insured insurance replacements? replac(?:e|ed|ing) exchanges? price[-~]match\w* (?:loyalty|reward|bonus)~?points? rewards?
(?:special|exclusive)~offers? percent per~cent cheaper savings? you(?:'ve|~have)?~saved? deduct\w* lower(?:ed)?~price
return(?:ed|ing)?~(?:it|them|your|the|any|this|that|these|items?|policy|window|label|within|for|anything) returns?~(?:are|is) to~return
can~return cancel\w* free[-~]of[-~]charge pay~nothing nothing~to~pay surprises? prizes? jackpot extra~(?:item|copy|unit|piece)s? upgrad\w*
costs?~(?:you~)?nothing (?:not|never|without|\w+n't)~(?:yet~)?(?:be~|been~|being~)?(?:yet~)?(?:charg(?:ed?|ing)|bill(?:ed|ing)|debited|paid|taken) throw(?:ing|n)?~in
threw~in extra~(?!care|attention|mile|effort|time|question)\w+ no~questions~asked (?:you|have|has|'ve)~won winner\w*
(?:on|off|(?<!wait~)for|with)~(?:your|the|any|a)~(?:next|future|following|upcoming)~(?:order|purchase|delivery|shipment|invoice)s?
(?:next|future|following)~(?:order|purchase|delivery)s?~(?:is|are|will|won't|ships?|gets?|comes?|has|with)
(?:request|claim)~(?:has~been~|is~|was~)?approved take~(?:it|them|everything)~back send~(?:it|them)~back by~courtesy courtesy~of
with~our~compliments exempt\w* double~(?:points|the) two~for~(?:the~price~of~)?one
(?:small|little|nice|special)~(?:extra|token|treat|thank-you|something) in~your~favou?r not~satisfied chang\w+~your~mind
make~it~(?:right|up~to) second third\b another~(?:one|item) not~happy unhappy treat~you pick~up~the~(?:tab|cost\w*)
covers?~the~(?:cost\w*|shipping|postage) express~(?:shipping|delivery|service|courier)
(?:an?|our|another)~(?:\w+~)?presents? (?:is|are|was|goes)~on~(?:me|the~team|all~of~us) (?<!rest~)assur(?:ed?|es|ances?|ing) (?:on|in)~time
fix(?:es|ing)?~(?:any|all|every|it|them|that) repair\w* defect\w* faulty? first~(?:week|month|year)s?
(?:buy|trade|purchase)~(?:[\w\ue100-\uf8ff]+~){0,3}back trade[-~]in buy-?back without~paying we~(?:\w+~)?pay(?!~attention) (?:company|shop|store)~pays
(?:never|no~longer|don't|won't|not)~(?:\w+~){0,2}pay(?:ing)? (?:never|ever)~again unpaid overdue (?:still|remains?)~(?:due|open|outstanding)
(?:priority|expedited|overnight)~(?:shipping|delivery|handling|mail) expedited? apply~a~credit try~it~risk
"""
_GERMAN = r"""
erstatt\w* ruckerstatt\w* zuruckerstatt\w* ruckzahl\w* zuruckzahl\w* geld[-~]zuruck\w* geld~\w*~?zuruck rabatt\w* nachlass\w*
preisnachlass\w* gutschein\w* gutschrift\w* gutgeschrieben skonto kostenlos\w* kostenfrei\w* \w+kostenfrei\w* gebuhrenfrei\w* gratis\w*
umsonst frei~haus geschenk\w* schenk\w* \w*garant\w* gewahrleist\w* versprech\w* versprich\w* versprochen entschadig\w* schadenersatz
ermassig\w* vergunstig\w* ruckgabe\w* rucksend\w* zuruckgeben zuruckschicken zurucksenden umtausch\w* stornier\w* storno\w* bonus\w*
pramie\w* punkte prozent ohne~(?:\w+~)?(?:kosten|aufpreis|gebuhr\w*|berechnung) uberraschung\w* expressversand\w* expresslieferung\w*
ersatzlieferung\w* versichert\w* zugabe\w* (?:nachste[nr]?|kunftige[nr]?)~(?:bestellung|einkauf|mal|lieferung|kauf)(?:en)? zurucknehmen
nehmen~\w+~(?:\w+~){0,3}zuruck auf~unsere~(?:kosten|rechnung) zu~unseren~lasten nichts~(?:bezahlen|zahlen) kostet~(?:sie~|dich~)?nichts
gewonnen kulan\w* ubernehmen~wir gutschreiben unverbindlich nicht~zufrieden zweite[nrs]? auf~(?:uns|unsere~rechnung) verdoppel\w*
geschuldet~nichts zusichern\w* zugesichert\w*
prasent\w* auf~(?:die~firma|das~haus|den~chef) zufriedenheit~(?:\w+~){0,2}sicher mangel\w* defekt\w* reparatur\w* reparier\w* beheb\w*
(?:kaufen|kauft)~(?:[\w\ue100-\uf8ff]+~){0,4}zuruck \w*ruckkauf\w* nie~(?:wieder|mehr) unbezahlt\w* noch~(?:offen|fallig)
nicht~(?:\w+~)?(?:belastet|abgebucht|bezahlt|eingezogen) ohne~(?:\w+~)?(?:mehrkosten|zuschlag|zusatzkosten) rechtzeitig punktlich\w*
"""
_FRENCH = r"""
rembours\w* remises?(?!~(?:au|aux|a|du|en|de)\b) reductions? rabais ristournes? gratuit\w* gratis offert\w* offrons offrir cadeaux?
(?:bons?|cheques?)~(?:d'achats?|cadeaux?|de~reduction) codes?~promo\w* garanti\w* promett\w* promis promises? promesses? dedommag\w*
indemni\w* compensat\w* compens\w* avoir~de sans~(?:\w+~)?(?:frais|cout) pour~cent retourner retours?~gratuit\w* renvoyer echang\w+
annul\w+ prochaine?~(?:commande|achat|livraison) prochains~achats a~nos~frais a~notre~charge coute~rien gagn\w+ geste~commercial reprenons
reprendre satisfaits? deuxieme seconde? notre~compte en~prime par~courtoisie prenons~en~charge rien~a~(?:payer|regler) surprises?
points?~de~fidelite livraison~express soldes? promotions?
(?:pour|par|frais~de)~la~maison satisfaction~(?:\w+~)?assuree? repar(?:er|ons|erons|ation\w*) defauts? defectueu\w* rachet\w+ rachats?
ne~pa[iy]\w+~(?:plus|pas|jamais) (?:plus~jamais|jamais~plus) impayee?s? pas~(?:encore~)?(?:ete~)?(?:debit|regl|pay|prelev|factur)ee?s?
sans~(?:\w+~)?(?:depenses?|supplement) a~temps
"""
_SPANISH = r"""
reembols\w* reintegr\w* devoluci\w* devolver\w* devolvemos descuentos? rebajas? gratis gratuit\w* regal\w* obsequi\w* cup[o]n\w*
vales?~(?:de|por) bonos? bonific\w* garant\w* promet\w* promesas? compens\w* indemni\w* sin~(?:\w+~)?(?:costes?|costos?|cargos?|gastos?)
por~ciento sorpresas? cancelar\w* canjear\w* (?:proxim[oa]|siguiente|futur[oa])~(?:compra|pedido|orden|envio)s?
(?:a~nuestro~cargo|por~nuestra~cuenta|corre~de~nuestra~cuenta|invita~la~casa|invitamos) (?:ha|has)~ganado no~(?:paga\w*|cuesta)~nada
nada~que~pagar cortesia satisfech\w* segund[oa]s? envio~express puntos
(?:invita|paga)~la~(?:casa|empresa|tienda) (?:cuenta|cargo)~de~la~(?:casa|empresa|tienda) satisfaccion~(?:\w+~)?asegurada
repar(?:ar\w*|amos|acion\w*) defectos? defectuos\w* averias? recompr\w* nunca~mas (?:no|nunca)~(?:volver\w*~a~)?pag(?:a|as|ar\w*)
no~(?:se~)?(?:[lt]e~)?(?:ha|han|hemos|fue|sera)~(?:sido~)?(?:cargad|cobrad|pagad|debitad)[oa]s? impagad[oa]s? a~tiempo
"""
_ITALIAN = r"""
rimbors\w* restitu\w* scont\w+ gratis gratuit\w* omaggi\w* buon[oi]~(?:sconto|regalo|acquisto|da|di) buoni regal\w+ garan\w* promett\w*
promess\w* risarc\w* indenni\w* senza~(?:\w+~)?(?:costi|costo|spese) per~cento sorprese? sorpresa
(?:prossim[oa]|futur[oa])~(?:ordine|acquisto|spesa|spedizione) (?:prossimi|futuri)~(?:ordini|acquisti)
(?:a~nostre~spese|a~nostro~carico|offriamo~noi|offert\w*|offriamo) (?:ha|hai)~vinto non~(?:paga|paghi|costa)~nulla cortesia soddisfatt\w*
second[oa] niente~da~pagare riprendiamo annullare rendere~il reso resi cambio punti~fedelta
offre~la~(?:casa|ditta) (?:carico|spese)~(?:della~(?:casa|ditta)|dell'azienda) soddisfazione~(?:\w+~)?assicurata
ripar(?:are|iamo|eremo|azion[ei]) difett\w* ricompr\w* riacquist\w* mai~piu non~pagher\w* senza~(?:\w+~)?(?:supplement[oi]|sovrapprezz[oi])
non~(?:e~|abbiamo~)?(?:stat[oa]~)?(?:ancora~)?(?:addebitat|pagat|incassat)[oa] in~tempo
"""
_PORTUGUESE = r"""
reembols\w* devolu\w* devolver\w* devolvemos estorn\w* descontos? gratis gratuit\w* brindes? cup[o](?:m|ns) garant\w* garanti\w* promet\w*
promess\w* indeni[z]\w* indemni[z]\w* vales?[-~]\w+ oferta\w* oferecemos sem~(?:\w+~)?(?:custos?|encargos?|taxas?) por~cento surpresas?
presentes? (?:proxim[oa]|futur[oa])~(?:compra|pedido|encomenda) (?:por|a)~nossa~conta dinheiro~(?:\w+~)?de~volta (?:voce~)?ganhou ganhe
cortesia satisfeit\w* segund[oa]s?(?!-feira) nada~a~pagar nao~paga~nada isent\w* trocas? trocar
conta~da~(?:casa|empresa|loja) satisfacao~(?:\w+~)?assegurada consert\w* repar(?:os?|amos|ar\w*) defeit\w* recompr\w* nunca~mais
(?:nao|nunca)~(?:mais~)?pag(?:a|ara|ar|amos) nao~(?:foi~|sera~)?(?:cobrad|debitad|pag)[oa] a~tempo
"""
_DUTCH = r"""
terugbeta\w* terugstort\w* geld[-~]terug\w* restitutie korting\w* gratis kosteloos kosteloze cadeau\w* garant\w* gegarandeerd\w*
belofte\w* beloven beloofd\w* belooft vergoed\w* waardebon\w* tegoed\w* retourn\w* terugsturen ruilen annuler\w* zonder~(?:\w+~)?kosten
procent verrassing\w* schadevergoeding\w* spaarpunten (?:volgende|toekomstige)~(?:bestelling|aankoop|keer)
(?:op|voor)~(?:onze~kosten|onze~rekening) kost~(?:je~|u~)?niets niets~te~betalen gewonnen (?:nemen|neem)~\w+~(?:\w+~){0,3}terug
tevreden(?:heid)? niet~goed uit~coulance coulance van~(?:ons|de~zaak) tweede
repar\w* herstel\w* defecten gebrek(?:en)? (?:kopen|koopt)~(?:[\w\ue100-\uf8ff]+~){0,4}terug terugkop\w* inruil\w* nooit~meer
niet~(?:belast|afgeschreven|betaald|gedebiteerd) onbetaald\w* zonder~(?:\w+~)?(?:meerprijs|toeslag) op~tijd
"""
_OTHERS = r"""
zwrot\w* rabat\w* darmow\w* znizk\w* aterbetal\w* rabatt\w* gratis refusion\w* tilbagebetal\w* ucretsiz\w* iade\w* indirim\w* zdarma
slev\w* ilmai\w* hyvit\w* alennus\w*
"""
_ALL = " ".join((_ENGLISH, _GERMAN, _FRENCH, _SPANISH, _ITALIAN, _PORTUGUESE, _DUTCH, _OTHERS)).split()

PROMISE = re.compile(r"\b(?:" + "|".join(dict.fromkeys(_ALL)).replace("~", " ") + r")(?!\w)|\d ?%|(?<=\w)%", re.IGNORECASE)
