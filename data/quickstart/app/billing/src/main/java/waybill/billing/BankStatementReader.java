package waybill.billing;

import java.io.InputStream;
import javax.xml.parsers.*;
import org.w3c.dom.Document;

public class BankStatementReader {
    public Document read(InputStream camt) throws Exception {
        DocumentBuilderFactory factory = DocumentBuilderFactory.newInstance();
        return factory.newDocumentBuilder().parse(camt);
    }

    public void stream(InputStream camt, StatementHandler handler) throws Exception {
        SAXParserFactory factory = SAXParserFactory.newInstance();
        factory.newSAXParser().parse(camt, handler);
    }
}
